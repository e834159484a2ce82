#!/usr/bin/env bash
# A language model of sentences, as for the benchmark of a billion words, and its kNN-LM: each sentence is a context of
# its own, in training, in evaluation and in the datastore. WikiText-2's sentences, one a line and shuffled.
#
#   bash examples/knnlm/sentences.sh SOURCE      SOURCE as for prepare_wikitext.py: a zip, or a directory
#
# Finished steps are reused; WORK=DIR changes where files go.

WORK=${WORK:-sentences}
STEPS=9
here=$(dirname "$0")
. "$here/steps.sh"
source_text=${1:?usage: sentences.sh SOURCE (a zip or a directory with the text of WikiText-2)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

step text python "$here/prepare_wikitext.py" --source "$source_text" --dest "$WORK/text"
step sentences python "$here/prepare_sentences.py" --source "$WORK/text" --dest "$WORK/text"
step preprocess fairseq-preprocess --only-source --destdir "$WORK/data-bin" --workers 2 --overwrite \
    --trainpref "$WORK/text/sentences.train.tokens" --validpref "$WORK/text/sentences.valid.tokens" \
    --testpref "$WORK/text/sentences.test.tokens"
# transformer_lm_gbw scaled down, with an adaptive input and output for the sake of speed.
step train fairseq-train --task language_modeling "$WORK/data-bin" --save-dir "$WORK/checkpoints" \
    --arch transformer_lm_gbw --decoder-layers 2 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 \
    --decoder-attention-heads 4 --adaptive-input --adaptive-input-cutoff 5000,15000 \
    --adaptive-softmax-cutoff 5000,15000 --tie-adaptive-weights --tie-adaptive-proj --attention-dropout 0 \
    --criterion adaptive_loss --optimizer adam --adam-betas "(0.9, 0.98)" --lr 0.003 --clip-norm 0.5 \
    --lr-scheduler polynomial_decay --warmup-updates 50 --max-update 400 \
    --tokens-per-sample 256 --sample-break-mode eos --max-tokens 2048 --no-epoch-checkpoints --log-interval 50

evaluate=(fairseq-eval-lm "$WORK/data-bin" --path "$WORK/checkpoints/checkpoint_best.pt" --sample-break-mode eos
    --max-tokens 2048)
# The index keeps a byte per dimension: its own distances are good enough, and no key is read again.
neighbours=(--knnlm --dstore-filename "$WORK/dstore" --indexfile "$WORK/knn.index" --k 256 --probe 8
    --no-load-keys --knn-sim-func do_not_recomp_l2 --knn-temp auto --lmbda 0.25)

step dump "${evaluate[@]}" --gen-subset train --save-knnlm-dstore --dstore-mmap "$WORK/dstore" --dstore-fp16
step index fairseq-build-dstore --dstore-mmap "$WORK/dstore" --faiss-index "$WORK/knn.index" \
    --index-spec IVF1024,SQ8 --probe 8 --overwrite
for split in valid test; do
    step "retrieve-$split" "${evaluate[@]}" --gen-subset $split "${neighbours[@]}" \
        --save-retrieval "$WORK/retrieval/$split" --overwrite --results-path "$WORK/results/$split.json"
done
step sweep fairseq-knnlm sweep --overwrite "$WORK/retrieval/valid" --apply "$WORK/retrieval/test" --lmbda 0:0.6:0.05 \
    --k 16,64,256 --knn-temp auto --no-figures

echo
cat "$WORK/logs/sweep.log"
