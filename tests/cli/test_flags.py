"""The flags of every command, frozen: removing one, or changing its default, breaks somebody's script.

The lists are written by hand from the published interface, not taken from the code.
"""

import argparse
import re
import shlex

import pytest

from fairseq.config.command_line import make_parser, parse
from fairseq.config.flags import flag_fields, flag_name

EVERY_COMMAND = shlex.split(
    "--seed --log-interval --log-format --log-file --no-progress-bar --cpu --fp16 --bf16 --memory-efficient-fp16"
    " --fp16-init-scale --min-loss-scale --user-dir --num-workers --help --version --traceback"
    " --memory-efficient-bf16"
)
TRAIN = shlex.split(
    "--task --arch -a --save-dir --restore-file --max-update --max-epoch --clip-norm --lr --min-lr"
    " --stop-min-lr --update-freq --optimizer --momentum --weight-decay --adam-betas --adam-eps"
    " --lr-scheduler --warmup-updates --warmup-init-lr --max-lr --t-mult --lr-period-updates"
    " --lr-shrink --criterion --max-tokens --max-sentences --batch-size --required-batch-size-multiple"
    " --tokens-per-sample --sample-break-mode --skip-invalid-size-inputs-valid-test --ddp-backend"
    " --save-interval --save-interval-updates --keep-interval-updates --keep-last-epochs"
    " --keep-best-checkpoints --best-checkpoint-metric --patience --validate-interval --no-save"
    " --no-epoch-checkpoints --reset-optimizer --reset-lr-scheduler --reset-dataloader --reset-meters"
    " --tensorboard-logdir --decoder-layers --decoder-embed-dim --decoder-input-dim"
    " --decoder-output-dim --decoder-ffn-embed-dim --decoder-attention-heads"
    " --decoder-normalize-before --no-decoder-final-norm --decoder-learned-pos"
    " --no-token-positional-embeddings --share-decoder-input-output-embed --adaptive-input"
    " --adaptive-input-cutoff --adaptive-input-factor --adaptive-softmax-cutoff"
    " --adaptive-softmax-dropout --adaptive-softmax-factor --tie-adaptive-weights --tie-adaptive-proj"
    " --dropout --attention-dropout --activation-dropout --relu-dropout --activation-fn"
    " --scale-attn --scale-heads --scale-fc --scale-resids --layernorm-embedding --checkpoint-activations"
    " --offload-activations --decoder-layerdrop --max-target-positions --add-bos-token --output-dictionary-size"
    " --distributed-world-size"
    " --distributed-num-procs --device-id --local-rank"
    " --label-smoothing --report-accuracy --ignore-prefix-size --sentence-avg --shrink-min --lr-threshold --lr-patience"
    " --adafactor-eps --clip-threshold --decay-rate --beta1 --scale-parameter --relative-step --warmup-init"
    " --lr-deacy-period --lr-decay-period --lr-decay --warmup-steps --hold-steps --decay-steps --phase-ratio"
    " --init-lr-scale --final-lr-scale"
    " --adamax-betas --adamax-eps --no-bias-correction --adadelta-rho --adadelta-eps"
    " --me --mu --learning-rate --stop-time-hours --max-tokens-valid --batch-size-valid --max-sentences-valid"
    " --max-valid-steps --nval --valid-subset --combine-valid-subsets --combine-val --ignore-unused-valid-subsets"
    " --validate-interval-updates --validate-after-updates --fixed-validation-seed --optimizer-overrides --curriculum"
    " --keep-interval-updates-pattern --amp --amp-init-scale --amp-scale-window --threshold-loss-scale"
)
VALIDATE = shlex.split(
    "--path --task --criterion --model-overrides --max-tokens --max-sentences --batch-size"
    " --required-batch-size-multiple --dataset-impl --valid-subset --combine-valid-subsets --combine-val"
    " --ignore-unused-valid-subsets --skip-invalid-size-inputs-valid-test --max-tokens-valid --batch-size-valid"
    " --max-sentences-valid --max-valid-steps --nval --fixed-validation-seed --sample-break-mode --tokens-per-sample"
    " --add-bos-token"
)
EVAL_LM = shlex.split(
    "--path --gen-subset --max-tokens --context-window --softmax-batch --post-process --remove-bpe"
    " --output-word-probs --output-word-stats --model-overrides --num-shards --shard-id"
    " --sample-break-mode --tokens-per-sample --knnlm --save-knnlm-dstore --dstore-mmap --knn-keytype"
    " --probe --k --dstore-size --dstore-filename --indexfile --lmbda --knn-sim-func"
    " --faiss-metric-type --no-load-keys --dstore-fp16 --move-dstore-to-mem --knn-temp --drop-top1"
    " --exclude-own-row --gpu-index --tensorboard-logdir --save-retrieval --rerank --cache-size --cache-lmbda"
    " --cache-theta --lmbda-model --skip-retrieval --append --overwrite --save-interval-s"
)
RAW_TEXT = shlex.split(
    "--tokenizer --bpe --source-lang --target-lang --moses-source-lang --moses-target-lang --moses-no-dash-splits"
    " --moses-no-escape --bpe-codes --bpe-separator --sentencepiece-model --sentencepiece-model-path"
    " --gpt2-encoder-json --gpt2-vocab-bpe --bpe-merges --bpe-vocab --bpe-add-prefix-space --bpe-vocab-file --bpe-cased"
)
GENERATION = RAW_TEXT + shlex.split(
    "--path --task --model-overrides --max-tokens --max-sentences --batch-size --post-process --remove-bpe --beam"
    " --nbest --max-len-a --max-len-b --min-len --lenpen --unnormalized --unkpen --no-repeat-ngram-size --sampling"
    " --sampling-topk --sampling-topp --temperature --sample-break-mode --tokens-per-sample --knnlm --knn-keytype"
    " --probe --k --rerank --dstore-size --dstore-filename --indexfile --lmbda --knn-sim-func --faiss-metric-type"
    " --no-load-keys --dstore-fp16 --move-dstore-to-mem --knn-temp --drop-top1 --gpu-index --show-neighbours"
)
GENERATE = [*GENERATION, *shlex.split("--gen-subset --prefix-size --num-shards --shard-id --dataset-impl")]
INTERACTIVE = [*GENERATION, *shlex.split("--input --buffer-size")]
SCORE_LM = RAW_TEXT + shlex.split(
    "--path --input --json --buffer-size --max-tokens --softmax-batch --model-overrides --task --knnlm --probe --k"
    " --dstore-size --dstore-filename --indexfile --lmbda --knn-sim-func --faiss-metric-type --no-load-keys"
    " --dstore-fp16 --knn-keytype --move-dstore-to-mem --knn-temp --drop-top1 --gpu-index --rerank --lmbda-model"
    " --skip-retrieval"
)
PREPROCESS = shlex.split(
    "--only-source --trainpref --validpref --testpref --destdir --workers --dataset-impl"
    " --thresholdsrc --nwordssrc --padding-factor --srcdict --tokenizer --bpe --dict-only"
    " --tensorboard-logdir --documents --jsonl-field --document-glob"
)
BUILD_DSTORE = shlex.split(
    "--dstore-mmap --dstore-size --dimension --dstore-fp16 --seed --ncentroids --code-size --probe"
    " --faiss-index --num-keys-to-add-at-a-time --starting-point --index-spec --recall --effort --gpu-index"
    " --train-sample --append --retrain --drift-warning --overwrite --save-interval-s --help --version"
)
KNNLM = {
    "check": shlex.split(
        "--retrieval --path --dstore-filename --indexfile --gen-subset --dstore-size --dimension --dstore-fp16 --k"
        " --probe --sample --fast --json --help --version"
    ),
    "info": shlex.split("--help --version"),
    "adopt": shlex.split(
        "--dstore-mmap --dstore-size --dimension --dstore-fp16 --copy --overwrite --data --dictionary-only --gen-subset"
        " --path --context-window --tokens-per-sample --stride --sample-break-mode --cpu --help --version"
    ),
    "recall": shlex.split(
        "--dstore-filename --index-spec --indexfile --k --probe --sample --lmbda --knn-temp --effort --keep-in --json"
        " --dstore-size --dimension --dstore-fp16 --allow-mismatch --path --gen-subset --context-window"
        " --sample-break-mode --model-overrides --cpu --help --version"
    ),
    "export-distribution": shlex.split(
        "--dstore-filename --indexfile --destination --k --probe --knn-temp --knn-sim-func --rows --allow-mismatch"
        " --overwrite --help --version"
    ),
    "join": shlex.split("--results-path --dstore-mmap --overwrite --help --version"),
    "convert": shlex.split("--overwrite --help --version"),
    "report": shlex.split(
        "--out --lmbda --k --knn-temp --data --dstore-data --neighbours --max-tokens --max-megabytes --overwrite --help"
        " --version"
    ),
    "sweep": shlex.split(
        "--lmbda --k --knn-temp --apply --out --resamples --no-figures --allow-mismatch --seed --help --version"
    ),
    "sweep-cache": shlex.split(
        "--lmbda --cache-lmbda --k --knn-temp --apply --out --resamples --no-figures --allow-mismatch --help --version"
    ),
    "fit-lmbda": shlex.split(
        "--out --apply --k --knn-temp --folds --dstore-filename --dictionary --overwrite --allow-mismatch --seed --help"
        " --version"
    ),
    "rows": shlex.split("--documents --context --json --data --document-start --help --version"),
    "plan": shlex.split(
        "--tokens --dim --dstore-fp16 --ncentroids --code-size --train-sample --queries --k --probe --map-index"
        " --machines --memory-gib --disk-gib --network-gbit --path --gen-subset --context-window --tokens-per-s --rates"
        " --save-rates --work --overwrite --cpu --help --version"
    ),
    "forget": shlex.split(
        "--document --rows --source --following --dry-run --compact --indexfile --save-interval-s --data"
        " --document-start --help --version"
    ),
}

# Defaults that the published interface gives.
EVERY_DEFAULT = {
    "--seed": 1,
    "--log-interval": 100,
    "--fp16-init-scale": 128,
    "--min-loss-scale": 1e-4,
    "--num-workers": 1,
}
GENERATION_DEFAULTS = {
    "--beam": 5,
    "--nbest": 1,
    "--max-len-a": 0,
    "--max-len-b": 200,
    "--min-len": 1,
    "--lenpen": 1,
    "--unkpen": 0,
    "--no-repeat-ngram-size": 0,
    "--sampling-topk": -1,
    "--sampling-topp": -1,
    "--temperature": 1,
    "--k": 1024,
    "--probe": 8,
    "--lmbda": 0,
    "--knn-temp": 1,
    "--model-overrides": "{}",
}
DEFAULTS = {
    "fairseq-train": {
        **EVERY_DEFAULT,
        "--task": "language_modeling",
        "--save-dir": "checkpoints",
        "--restore-file": "checkpoint_last.pt",
        "--max-update": 0,
        "--max-epoch": 0,
        "--clip-norm": 25,
        "--min-lr": -1,
        "--update-freq": 1,
        "--momentum": 0.99,
        "--weight-decay": 0,
        "--warmup-init-lr": -1,
        "--t-mult": 1,
        "--lr-period-updates": -1,
        "--lr-shrink": 0.1,
        "--lr-threshold": 0.0001,
        "--lr-deacy-period": 25000,
        "--lr-decay": 0.5,
        "--init-lr-scale": 0.01,
        "--final-lr-scale": 0.01,
        "--lr-patience": 0,
        "--label-smoothing": 0,
        "--ignore-prefix-size": 0,
        "--clip-threshold": 1,
        "--decay-rate": -0.8,
        "--adadelta-rho": 0.9,
        "--adadelta-eps": 1e-6,
        "--required-batch-size-multiple": 8,
        "--tokens-per-sample": 1024,
        "--sample-break-mode": "none",
        "--save-interval": 1,
        "--save-interval-updates": 0,
        "--keep-interval-updates": -1,
        "--keep-last-epochs": -1,
        "--keep-best-checkpoints": -1,
        "--best-checkpoint-metric": "loss",
        "--patience": -1,
        "--validate-interval": 1,
        "--adaptive-input-factor": 4,
        "--adaptive-softmax-factor": 4,
        "--stop-time-hours": 0,
        "--validate-interval-updates": 0,
        "--validate-after-updates": 0,
        "--valid-subset": "valid",
        "--curriculum": 0,
        "--optimizer-overrides": "{}",
        "--keep-interval-updates-pattern": -1,
    },
    "fairseq-validate": {**EVERY_DEFAULT, "--model-overrides": "{}", "--valid-subset": "valid"},
    "fairseq-eval-lm": {
        **EVERY_DEFAULT,
        "--gen-subset": "test",
        "--max-tokens": 36000,
        "--context-window": 0,
        "--model-overrides": "{}",
        "--num-shards": 1,
        "--shard-id": 0,
        "--sample-break-mode": "none",
        "--probe": 8,
        "--k": 1024,
        "--lmbda": 0.0,
        "--faiss-metric-type": "l2",
        "--knn-temp": 1,
        "--cache-lmbda": 0.0,
        "--cache-theta": 1.0,
        "--skip-retrieval": 0,
    },
    "fairseq-generate": {
        **EVERY_DEFAULT,
        **GENERATION_DEFAULTS,
        "--gen-subset": "test",
        "--prefix-size": 0,
        "--num-shards": 1,
        "--shard-id": 0,
    },
    "fairseq-interactive": {**EVERY_DEFAULT, **GENERATION_DEFAULTS, "--input": "-", "--buffer-size": 0},
    "fairseq-score-lm": {
        **EVERY_DEFAULT,
        "--input": "-",
        "--buffer-size": 1000,
        "--max-tokens": 36000,
        "--model-overrides": "{}",
        "--probe": 8,
        "--k": 1024,
        "--lmbda": 0.0,
        "--faiss-metric-type": "l2",
        "--knn-temp": 1,
    },
    "fairseq-preprocess": {
        **EVERY_DEFAULT,
        "--destdir": "data-bin",
        "--workers": 1,
        "--dataset-impl": "mmap",
        "--thresholdsrc": 0,
        "--nwordssrc": -1,
        "--padding-factor": 8,
        "--jsonl-field": "text",
    },
    "build_dstore.py": {
        "--seed": 1,
        "--ncentroids": 4096,
        "--code-size": 64,
        "--probe": 8,
        "--num-keys-to-add-at-a-time": 1000000,
        "--starting-point": 0,
        "--effort": "quick",
        "--recall": 0.8,
        "--drift-warning": 1.25,
    },
    "fairseq-knnlm check": {"--k": 1024, "--sample": 100},
    "fairseq-knnlm plan": {"--queries": 245569, "--k": 1024, "--probe": 8, "--ncentroids": 4096, "--code-size": 64},
    "fairseq-knnlm info": {},
    "fairseq-knnlm join": {},
    "fairseq-knnlm adopt": {"--gen-subset": "train", "--context-window": 0, "--sample-break-mode": "none"},
    "fairseq-knnlm recall": {
        "--k": 1024,
        "--probe": (8, 32),
        "--sample": 2000,
        "--lmbda": 0.25,
        "--knn-temp": 1,
        "--effort": "quick",
        "--gen-subset": "valid",
        "--context-window": 0,
        "--sample-break-mode": "none",
    },
    "fairseq-knnlm export-distribution": {"--k": 1024, "--probe": 8, "--knn-temp": 1},
    "fairseq-knnlm convert": {},
    "fairseq-knnlm report": {"--neighbours": 8, "--max-tokens": 200_000, "--max-megabytes": 30},
    "fairseq-knnlm sweep": {"--lmbda": "0:1:0.05", "--resamples": 10000, "--seed": 1},
    "fairseq-knnlm sweep-cache": {"--lmbda": "0:0.9:0.05", "--cache-lmbda": "0:0.9:0.05", "--resamples": 10000},
    "fairseq-knnlm fit-lmbda": {"--folds": 5, "--seed": 1},
    "fairseq-knnlm rows": {"--context": 12},
    "fairseq-knnlm forget": {"--following": 0, "--save-interval-s": 60},
}
CHOICES = {
    "fairseq-train": {
        "--optimizer": "nag adam sgd adagrad adamw adadelta adamax adafactor",
        "--lr-scheduler": "fixed cosine inverse_sqrt polynomial_decay triangular reduce_lr_on_plateau step tri_stage",
        "--criterion": "cross_entropy adaptive_loss label_smoothed_cross_entropy",
        "--log-format": "json simple tqdm none",
    },
    "fairseq-preprocess": {"--documents": "file blank-line jsonl"},
    "fairseq-eval-lm": {"--knn-sim-func": "do_not_recomp_l2 dot", "--log-format": "json simple tqdm none"},
}
FLAGS = {
    "fairseq-train": [*EVERY_COMMAND, *TRAIN],
    "fairseq-validate": [*EVERY_COMMAND, *VALIDATE],
    "fairseq-eval-lm": [*EVERY_COMMAND, *EVAL_LM],
    "fairseq-generate": [*EVERY_COMMAND, *GENERATE],
    "fairseq-interactive": [*EVERY_COMMAND, *INTERACTIVE],
    "fairseq-score-lm": [*EVERY_COMMAND, *SCORE_LM],
    "fairseq-preprocess": [*EVERY_COMMAND, *PREPROCESS],
    "build_dstore.py": BUILD_DSTORE,
    **{f"fairseq-knnlm {name}": flags for name, flags in KNNLM.items()},
}


def help_of(prog: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Returns what a command prints for ``--help``, on one line."""
    if prog == "fairseq-train":
        from fairseq_cli.train import main
    elif prog == "fairseq-validate":
        from fairseq_cli.validate import main
    elif prog == "fairseq-eval-lm":
        from fairseq_cli.eval_lm import main
    elif prog == "fairseq-generate":
        from fairseq_cli.generate import main
    elif prog == "fairseq-interactive":
        from fairseq_cli.interactive import main
    elif prog == "fairseq-score-lm":
        from fairseq_cli.score_lm import main
    elif prog == "fairseq-preprocess":
        main = pytest.importorskip("fairseq_cli.preprocess").main
    elif prog.startswith("fairseq-knnlm"):
        from fairseq_cli.knnlm import main
    else:
        main = pytest.importorskip("build_dstore").main
    with pytest.raises(SystemExit) as caught:
        main([*prog.split()[1:], "--help"])
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_every_published_flag_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for prog, flags in FLAGS.items():
        shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", help_of(prog, capsys)))
        assert not set(flags) - shown, prog


def groups_of(prog: str) -> tuple[type, ...]:
    if prog == "fairseq-train":
        from fairseq_cli.train import flag_groups

        return flag_groups()
    if prog == "fairseq-validate":
        import fairseq_cli.validate as command
    elif prog == "fairseq-eval-lm":
        import fairseq_cli.eval_lm as command
    elif prog == "fairseq-generate":
        import fairseq_cli.generate as command
    elif prog == "fairseq-interactive":
        import fairseq_cli.interactive as command
    elif prog == "fairseq-score-lm":
        import fairseq_cli.score_lm as command
    elif prog == "fairseq-preprocess":
        command = pytest.importorskip("fairseq_cli.preprocess")
    elif prog.startswith("fairseq-knnlm"):
        import fairseq_cli.knnlm as command
    else:
        command = pytest.importorskip("build_dstore")
    seen: list[tuple[type, ...]] = []

    def keep(prog: str, description: str, groups: tuple[type, ...], *more: object, **named: object) -> None:
        seen.append(tuple(groups))
        raise SystemExit(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "parse", keep)
        with pytest.raises(SystemExit):
            command.main(prog.split()[1:])
    return seen[0]


def test_every_subcommand_is_in_the_tables_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    from fairseq_cli.knnlm import SUBCOMMANDS

    assert set(KNNLM) == set(SUBCOMMANDS)
    text = help_of("fairseq-knnlm", capsys)
    assert all(f" {name} {subcommand.summary}" in text for name, subcommand in SUBCOMMANDS.items())


def test_defaults_are_the_published_ones() -> None:
    assert set(DEFAULTS) == set(FLAGS)
    for prog, published in DEFAULTS.items():
        groups = reversed(groups_of(prog))
        fields = {flag_name(name): field for cls in groups for name, field in flag_fields(cls).items()}
        for flag, value in published.items():
            default = fields[flag].default
            single = isinstance(default, tuple) and len(default) == 1
            assert (default[0] if single else default) == value, (prog, flag)
        on = {flag for flag, field in fields.items() if field.default is True}
        assert on == ({"--decoder-normalize-before"} if prog == "fairseq-train" else set()), prog


def test_the_width_of_a_key_is_what_the_manifest_says_else_the_published_1024() -> None:
    from fairseq.knn.datastore.config import DEFAULT_KEY_DIMENSION

    assert DEFAULT_KEY_DIMENSION == 1024


@pytest.mark.parametrize("prog", CHOICES)
def test_choices_are_the_published_ones(prog: str) -> None:
    fields = {flag_name(name): field for cls in groups_of(prog) for name, field in flag_fields(cls).items()}
    for flag, words in CHOICES[prog].items():
        choices = fields[flag].metadata["choices"]
        assert set(choices() if callable(choices) else choices) == set(words.split()), flag


def test_every_flag_is_explained() -> None:
    for prog in FLAGS:
        parser = make_parser(prog, "", groups_of(prog))
        unexplained = [a.option_strings for a in parser._actions if not a.help or a.help == argparse.SUPPRESS]
        assert not unexplained, prog


def test_every_flag_parses_with_hyphens_and_with_underscores() -> None:
    """A flag of several commands is tried in the first of them."""
    tried = set[str]()
    for prog in FLAGS:
        groups = groups_of(prog)
        for action in make_parser(prog, "", groups)._actions:
            options = {o for o in action.option_strings if o.startswith("--") and o not in ("--help", "--version")}
            for option in sorted(options - tried):
                words = [option] if action.nargs == 0 else [option, "1"]
                under = ["--" + option[2:].replace("-", "_"), *words[1:]]
                assert parse(prog, "", groups, words).typed == parse(prog, "", groups, under).typed != {}, option
            tried |= options
