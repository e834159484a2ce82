"""Flags with values that they cannot have."""

import shlex

from tests.builders.cases import (
    BUILD,
    EVAL,
    GENERATE,
    INTERACTIVE,
    PREPROCESS,
    TRAIN,
    Call,
    Case,
    Place,
    check,
    parametrise,
)


def typed(prog: str, words: str, expect: str) -> Case:
    """Returns the case of a sound command line with these words at its end."""

    def make(place: Place) -> list[object]:
        sound = {
            EVAL: place.neighbours,
            GENERATE: place.generate,
            INTERACTIVE: place.generate,
            TRAIN: place.train,
            PREPROCESS: place.preprocess,
            BUILD: place.build,
        }
        return [*sound[prog](), *shlex.split(words)]

    return Case(f"flag-{prog.removeprefix('fairseq-')} {words[:60]}", prog, make, expect)


def neighbours_of_nothing(place: Place) -> list[object]:
    return [*place.evaluate(), "--show-neighbours"]


def results_in_a_file(place: Place) -> list[object]:
    (place / "file").write_bytes(b"")
    return [*place.evaluate(), "--results-path", place / "file" / "x"]


def results_over_a_directory(place: Place) -> list[object]:
    (place / "r.json").mkdir()
    return [*place.evaluate(), "--results-path", place / "r.json"]


def save_dir_is_a_file(place: Place) -> list[object]:
    (place / "out").write_bytes(b"")
    return place.train()


def broken_plugin(place: Place) -> list[object]:
    (place / "broken_plugin.py").write_text("def x(:\n", encoding="utf-8")
    return [*place.evaluate(), "--user-dir", place / "broken_plugin.py"]


def plugin_with_an_odd_name(place: Place) -> list[object]:
    (place / "not-a-name.py").write_text("", encoding="utf-8")
    return [*place.evaluate(), "--user-dir", place / "not-a-name.py"]


NINES = "9" * 400
CASES = [
    typed(EVAL, "--lmbda nan", "--lmbda must be a number, but is 'nan'"),
    typed(EVAL, "--lmbda inf", "--lmbda must be finite"),
    typed(EVAL, "--lmbda -0.1", "--lmbda must be at least 0"),
    typed(EVAL, "--lmbda 1.01", "--lmbda must be at most 1"),
    typed(EVAL, "--lmbda 25", "--lmbda must be at most 1, but is 25.0; did you mean 0.25?"),
    typed(EVAL, "--lmbda", "--lmbda"),
    typed(EVAL, "--k 0", "--k must be at least 1"),
    typed(EVAL, "--k -1", "--k must be at least 1"),
    typed(EVAL, "--k 1e3x", "--k must be a whole number"),
    typed(EVAL, f"--k {NINES}", "--k must be "),
    typed(EVAL, "--probe 0", "--probe must be at least 1"),
    typed(EVAL, "--knn-temp 0", "--knn-temp must be above 0, but is 0"),
    typed(EVAL, "--knn-temp -1", "--knn-temp must be above 0"),
    typed(EVAL, "--knn-temp 1e-308", "--knn-temp must be at least 1e-09"),
    typed(EVAL, "--knn-temp inf", "--knn-temp must be finite"),
    typed(EVAL, "--knn-temp nan", "--knn-temp must be a number"),
    typed(EVAL, "--knn-sim-func cosine", "--knn-sim-func must be one of"),
    typed(EVAL, "--no-load-keys", "--no-load-keys leaves nothing to compute distances from"),
    typed(EVAL, "--cache-size 0 --cache-lmbda 0.1", "--cache-size must be at least 1"),
    typed(EVAL, "--cache-size x --cache-lmbda 0.1", "--cache-size must be a whole number"),
    typed(EVAL, "--cache-size 9 --cache-lmbda 1.5", "--cache-lmbda must be at most 1"),
    typed(EVAL, "--cache-size 9 --cache-lmbda 0.1 --cache-theta -1", "--cache-theta must be at least 0"),
    typed(EVAL, "--cache-size 9 --cache-lmbda 0.1 --cache-theta nan", "--cache-theta must be"),
    typed(EVAL, "--cache-size 9 --cache-lmbda 0.9 --lmbda 0.2", "must add up to at most 1, but are 1.1"),
    typed(EVAL, "--cache-size 9 --cache-lmbda 0.1,0.2", "needs --save-retrieval"),
    typed(EVAL, "--dstore-filename a:b", "--dstore-filename names 2, but --indexfile 1; give each"),
    typed(EVAL, "--indexfile a::b", "--indexfile must be names separated by colons, but is 'a::b'"),
    typed(EVAL, "--dstore-size 0", "--dstore-size must be at least 1"),
    typed(EVAL, "--dstore-size -3", "--dstore-size must be at least 1"),
    typed(EVAL, "--context-window -1", "--context-window must be at least 0"),
    typed(EVAL, "--context-window 16", "--context-window 16 must be smaller"),
    typed(EVAL, "--max-tokens 0", "--max-tokens must be at least 1"),
    typed(EVAL, "--max-tokens 3", "--max-tokens 3 is below the"),
    typed(EVAL, "--max-tokens 0x10", "--max-tokens must be a whole number"),
    typed(EVAL, "--batch-size -2", "--max-sentences must be at least 1"),
    typed(EVAL, "--softmax-batch 0", "--softmax-batch must be at least 1"),
    typed(EVAL, "--seed -1", "--seed must be at least 0"),
    typed(EVAL, f"--seed {10**20}", "--seed must be within"),
    typed(EVAL, "--num-shards 0", "--num-shards must be at least 1"),
    typed(EVAL, "--num-shards 2 --shard-id 2", "--shard-id 2 must be below --num-shards 2"),
    typed(EVAL, f"--k {10**12}", "--k must be at most"),
    typed(EVAL, "--log-format xml", "--log-format must be one of"),
    typed(EVAL, "--log-interval 0", "--log-interval must be at least 1"),
    typed(EVAL, "--model-overrides {", "--model-overrides must be a Python literal"),
    typed(EVAL, "--model-overrides '[1]'", "--model-overrides must be a dict"),
    typed(EVAL, "--model-overrides '{1: 2}'", "--model-overrides must be a dict with string keys"),
    typed(EVAL, f"--model-overrides {'[' * 5000}", "--model-overrides must be a Python literal"),
    typed(EVAL, "--model-overrides \"{'dropout': 7}\"", "--dropout must be at most 1"),
    typed(EVAL, "--model-overrides \"{'decoder_layers': 10**9}\"", "--model-overrides must be a Python literal"),
    typed(EVAL, "--model-overrides \"{'decoder_layers': 1000}\"", "decoder_layers is 1000"),
    typed(EVAL, "--model-overrides \"{'nothing': 1}\"", "'nothing' is not a setting of "),
    typed(EVAL, "--user-dir /nowhere", "--user-dir must be a directory"),
    typed(EVAL, "--lmda 0.1", "unrecognised argument --lmda; did you mean --lmbda?"),
    typed(EVAL, "surplus", "surplus"),
    typed(EVAL, "--fp16 --bf16", "--bf16"),
    typed(TRAIN, "--max-tokens 2", "--max-tokens 2 is below"),
    typed(TRAIN, "--lr nan", "--lr must be a number"),
    typed(TRAIN, "--lr inf", "--lr must be finite"),
    typed(TRAIN, "--lr ''", "--lr must have a value"),
    typed(TRAIN, "--lr -1", "--lr must be at least 0"),
    typed(TRAIN, "--update-freq 0", "--update-freq must be at least 1"),
    typed(TRAIN, "--update-freq 1,x", "--update-freq must be a whole number"),
    typed(TRAIN, "--arch transformer_lm_hugee", "--arch must be one of transformer_lm, "),
    typed(TRAIN, "--arch gpt2", "; did you mean transformer_lm_gpt?"),
    typed(TRAIN, "--arch Wiki103", "; did you mean transformer_lm_wiki103?"),
    typed(TRAIN, "--optimizer adamm", "--optimizer"),
    typed(TRAIN, "--decoder-layers 0", "--decoder-layers must be at least 1"),
    typed(TRAIN, "--decoder-layers 100000000", "--decoder-layers must be at most"),
    typed(TRAIN, "--decoder-ffn-embed-dim 4503599627370496", "too large for this machine's memory"),
    typed(TRAIN, "--decoder-attention-heads 3", "must be a multiple of --decoder-attention-heads 3"),
    typed(TRAIN, "--dropout 1.5", "--dropout must be at most 1"),
    typed(TRAIN, "--adaptive-softmax-cutoff 50", "--adaptive-softmax-cutoff 50 must rise and stay below"),
    typed(TRAIN, "--adaptive-softmax-cutoff 20,10", "--adaptive-softmax-cutoff 20,10 must rise"),
    typed(TRAIN, "--adaptive-softmax-cutoff 0", "--adaptive-softmax-cutoff must be at least 1"),
    typed(TRAIN, "--tokens-per-sample 0", "--tokens-per-sample must be at least 1"),
    typed(TRAIN, f"--tokens-per-sample {NINES}", "--tokens-per-sample must be"),
    typed(TRAIN, "--sample-break-mode line", "--sample-break-mode must be one of"),
    typed(TRAIN, "--train-subset nowhere", "nowhere.idx does not exist"),
    typed(TRAIN, "--valid-subset valid,nowhere", "nowhere.idx does not exist"),
    typed(TRAIN, "--restore-file /nowhere.pt", "checkpoint /nowhere.pt does not exist"),
    typed(PREPROCESS, "--workers 0", "--workers must be at least 1"),
    typed(PREPROCESS, "--nwordssrc 2", "--nwordssrc must be at least 4"),
    typed(PREPROCESS, "--nwordssrc -2", "--nwordssrc must be at least -1"),
    typed(PREPROCESS, "--padding-factor 0", "--padding-factor must be at least 1"),
    typed(PREPROCESS, "--thresholdsrc -1", "--thresholdsrc must be at least 0"),
    typed(PREPROCESS, "--dataset-impl lazy", "--dataset-impl must be one of mmap"),
    typed(PREPROCESS, "--bpe gpt2", "--bpe must not be given"),
    typed(PREPROCESS, "--tokenizer moses", "--tokenizer must be space"),
    typed(BUILD, "--dimension 0", "--dimension must be at least 1"),
    typed(BUILD, "--dimension 17", "has keys of width 16; leave the flag out"),
    typed(BUILD, "--train-sample 0", "--train-sample must be at least 1"),
    typed(BUILD, "--num-keys-to-add-at-a-time 0", "--num-keys-to-add-at-a-time must be at least 1"),
    typed(BUILD, "--dstore-size 99999999", "--dstore-size 99999999 is larger than"),
    typed(BUILD, "--faiss-index ''", "--faiss-index"),
    typed(BUILD, "--starting-point -1", "--starting-point must be at least 0"),
    typed(GENERATE, "--beam 0", "--beam must be at least 1"),
    typed(GENERATE, "--nbest 6", "--nbest 6 must be at most --beam 5"),
    typed(GENERATE, "--temperature 0.5", "--temperature has an effect only with --sampling"),
    typed(GENERATE, "--sampling --temperature 0", "--temperature must be above 0"),
    typed(GENERATE, "--sampling --temperature nan", "--temperature must be a number"),
    typed(GENERATE, "--sampling --sampling-topk 0", "--sampling-topk must be greater than 0, or -1"),
    typed(GENERATE, "--sampling --sampling-topp 1.5", "--sampling-topp must be at most 1"),
    typed(GENERATE, "--sampling --sampling-topp 0.5 --sampling-topk 5", "exclude each other"),
    typed(GENERATE, "--sampling-topk 5", "--sampling-topk has an effect only with --sampling"),
    typed(GENERATE, "--max-len-b 0", "--max-len-b 0"),
    typed(GENERATE, "--min-len 0 --max-len-b 0", "leave no token to follow a prompt of 0"),
    typed(GENERATE, "--min-len 9", "--min-len 9 must be at most --max-len-b 3"),
    typed(GENERATE, "--prefix-size 999999", "a prompt must have at most 15 tokens"),
    typed(GENERATE, "--max-tokens 9", "--max-tokens 9 must hold a prompt and its texts"),
    typed(GENERATE, "--path a:b", "--path names several checkpoints"),
    typed(GENERATE, "--path ''", "--path is required"),
    typed(GENERATE, "--remove-bpe letter", "--post-process letter is not here: give sentencepiece"),
    typed(GENERATE, "--gen-subset nowhere", "nowhere.idx does not exist"),
    typed(GENERATE, "--num-shards 3 --shard-id 3", "--shard-id 3 must be below --num-shards 3"),
    typed(GENERATE, "--num-shards 9999 --shard-id 9998", "--shard-id 9998 has nothing to do"),
    typed(GENERATE, "--show-neighbours 0", "--show-neighbours must be at least 1"),
    typed(GENERATE, "--samplng", "unrecognised argument --samplng; did you mean --sampling?"),
    typed(INTERACTIVE, "--input /nowhere", "--input must name text files, but /nowhere does not exist"),
    typed(INTERACTIVE, "--input /", "--input must name text files, but / is a directory"),
    typed(INTERACTIVE, "--prompt-size 4", "unrecognised argument --prompt-size (see fairseq-interactive --help)"),
    typed(INTERACTIVE, "--folds=4", "; fairseq-knnlm fit-lmbda has it"),
    typed(GENERATE, "--context-window 4", "; fairseq-eval-lm, fairseq-knnlm adopt and fairseq-knnlm recall have it"),
    typed(TRAIN, "--lmbda 0.5", "; fairseq-eval-lm, fairseq-score-lm and fairseq-generate have it"),
    typed(PREPROCESS, "--patience 3", "; fairseq-train has it"),
    typed(BUILD, "--folds 3", "; fairseq-knnlm fit-lmbda has it"),
    typed(EVAL, "--index-spec auto", "; fairseq-build-dstore and fairseq-knnlm recall have it"),
    Case("flag-neighbours-of-nothing", GENERATE, neighbours_of_nothing, "--show-neighbours needs neighbours"),
    Case("flag-results-in-a-file", EVAL, results_in_a_file, "file"),
    Case("flag-results-over-a-directory", EVAL, results_over_a_directory, "r.json"),
    Case("flag-save-dir-is-a-file", TRAIN, save_dir_is_a_file, "out"),
    Case("flag-broken-plugin", EVAL, broken_plugin, "--user-dir"),
    Case("flag-plugin-with-an-odd-name", EVAL, plugin_with_an_odd_name, "cannot be the name of a module"),
]


@parametrise(CASES)
def test_bad_flag(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
