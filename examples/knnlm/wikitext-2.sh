#!/usr/bin/env bash
# WikiText-2: train, write the datastore, index it, evaluate; every setting of neighbours and cache from one search;
# then what each step took, and the perplexities of model, cache, neighbours and both.
#
#   bash examples/knnlm/wikitext-2.sh SOURCE      SOURCE as for prepare_wikitext.py: a zip, or a directory
#
# About an hour on 2 cores with bfloat16, 80 minutes without. Finished steps are reused; WORK=DIR changes where files go,
# UPDATES=N how long is trained.

WORK=${WORK:-wikitext-2}
STEPS=12
UPDATES=${UPDATES:-3300}
here=$(dirname "$0")
. "$here/steps.sh"
source_text=${1:?usage: wikitext-2.sh SOURCE (a zip or a directory with the text of WikiText-2)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

step text python "$here/prepare_wikitext.py" --source "$source_text" --dest "$WORK/text"
step preprocess fairseq-preprocess --only-source --destdir "$WORK/data-bin" --workers 2 --overwrite \
    --trainpref "$WORK/text/wiki.train.tokens" --validpref "$WORK/text/wiki.valid.tokens" \
    --testpref "$WORK/text/wiki.test.tokens"
step train fairseq-train --task language_modeling "$WORK/data-bin" --save-dir "$WORK/checkpoints" \
    --arch transformer_lm_wiki103 --decoder-layers 4 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 \
    --decoder-attention-heads 4 --adaptive-input-cutoff 5000,15000 --adaptive-softmax-cutoff 5000,15000 \
    --dropout 0.1 --attention-dropout 0 --activation-dropout 0 --adaptive-softmax-dropout 0 \
    --criterion adaptive_loss --optimizer adam --adam-betas "(0.9, 0.98)" --lr 0.003 --clip-norm 0.5 \
    --lr-scheduler polynomial_decay --warmup-updates 200 --max-update "$UPDATES" \
    --tokens-per-sample 256 --sample-break-mode none --max-tokens 2048 --bf16 --no-epoch-checkpoints

evaluate=(fairseq-eval-lm "$WORK/data-bin" --path "$WORK/checkpoints/checkpoint_best.pt" --sample-break-mode none
    --max-tokens 2048 --bf16)
# The index keeps a byte per dimension: its own distances are good enough, and no key is read again. Keys of a model
# trained with Adam are long (11 on average): distances are long as well, which --knn-temp auto makes up for, and so are
# the inner products of the cache, which a small θ makes up for.
neighbours=(--knnlm --dstore-filename "$WORK/dstore" --indexfile "$WORK/knn.index" --k 1024 --probe 32
    --no-load-keys --knn-sim-func do_not_recomp_l2 --knn-temp auto --lmbda 0.2
    --cache-size 500,2000,4000 --cache-theta 0.03,0.1,0.3)

for split in valid test; do
    step "$split-lm" "${evaluate[@]}" --context-window 192 --gen-subset $split \
        --overwrite --results-path "$WORK/results/$split-lm.json"
done
step dump "${evaluate[@]}" --context-window 128 --gen-subset train --save-knnlm-dstore --dstore-mmap "$WORK/dstore"
step index fairseq-build-dstore --dstore-mmap "$WORK/dstore" --faiss-index "$WORK/knn.index" \
    --index-spec IVF2048,SQ8 --overwrite
# One search a split: what it finds is kept, and every setting is computed from that.
for split in valid test; do
    step "retrieve-$split" "${evaluate[@]}" --context-window 192 --gen-subset $split "${neighbours[@]}" \
        --save-retrieval "$WORK/retrieval/$split" --overwrite --results-path "$WORK/results/$split-knn.json"
done
both=("$WORK/retrieval/valid" --apply "$WORK/retrieval/test" --lmbda 0:0.9:0.05)
step sweep fairseq-knnlm sweep --overwrite "${both[@]}" --k 1,8,64,512,1024 --knn-temp auto
# k and temperature are those that the sweep has chosen.
step sweep-cache fairseq-knnlm sweep-cache --overwrite "${both[@]}"
step report fairseq-knnlm report "$WORK/retrieval/valid" --overwrite

# row LABEL STEP RESULT prints a row: perplexity, targets per second, wall seconds and peak memory of a step
row() {
    local memory
    memory=$(grep -o 'peak memory [0-9.]*' "$WORK/logs/$2.log" | tail -n 1 | cut -d' ' -f3)
    printf '| %s | %s | %s | %s | %s |\n' "$1" "${3:+$(cell "$3" ppl)}" "${3:+$(cell "${3%.json}.time.json" tokens_per_s ,.0f)}" \
        "$(cat "$WORK/logs/$2.seconds")" "$memory"
}
printf '\n| step | perplexity | tokens/s | seconds | GiB |\n|---|---:|---:|---:|---:|\n'
row 'preprocess' preprocess ''
row 'train' train ''
row 'LM, valid' valid-lm "$WORK/results/valid-lm.json"
row 'LM, test' test-lm "$WORK/results/test-lm.json"
row 'write datastore' dump ''
row 'build index' index ''
row 'neighbours and caches, valid, λ = 0.2' retrieve-valid "$WORK/results/valid-knn.json"
row 'neighbours and caches, test, λ = 0.2' retrieve-test "$WORK/results/test-knn.json"
row 'sweep' sweep ''
row 'sweep with caches' sweep-cache ''
row 'report' report ''
echo
grep -v "^<!--" "$WORK/retrieval/valid/sweep-cache/table.md"  # without the mark
printf '\nfigures %s · every token with its neighbours, for a browser: %s\n' "$WORK/retrieval/valid/sweep/" \
    "$WORK/retrieval/valid/report.html"
