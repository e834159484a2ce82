"""The published WikiText-103 recipe, as typed, parses and resolves to what it meant; the values are set by hand."""

import shlex

import pytest

from fairseq.config.command_line import parse
from fairseq.config.flags import Flags
from fairseq.errors import ConfigError
from fairseq.optim.config import CosineConfig, NAGConfig
from fairseq.optim.lr_schedules import cosine, stop_lr
from fairseq.train.config import RunConfig
from fairseq_cli.train import flag_groups, run_config

TRAIN_2019 = """--task language_modeling data-bin/wikitext-103 --save-dir checkpoints/ --arch transformer_lm_wiki103
    --max-update 286000 --max-lr 1.0 --t-mult 2 --lr-period-updates 270000 --lr-scheduler cosine --lr-shrink 0.75
    --warmup-updates 16000 --warmup-init-lr 1e-07 --min-lr 1e-09 --optimizer nag --lr 0.0001 --clip-norm 0.1
    --criterion adaptive_loss --max-tokens 3072 --update-freq 3 --tokens-per-sample 3072 --seed 1 --fp16
    --sample-break-mode none --skip-invalid-size-inputs-valid-test --ddp-backend=no_c10d"""
TRAIN_2022 = (
    TRAIN_2019.replace(" --max-lr 1.0", "")
    .replace("--lr 0.0001", "--lr 1.0")
    .replace("--min-lr 1e-09", "--min-lr 0.0001 --stop-min-lr 1e-09")
    .replace("--ddp-backend=no_c10d", "--ddp-backend=legacy_ddp")
)
# n → learning rate, read off the original program running this recipe.
GOLDEN_LR = {
    0: 1e-7,
    8000: 0.50000005,
    16000: 1.0,
    100000: 0.7796185,
    151000: 0.50005,
    285999: 0.000100000034,
    286000: 0.75,
}
# The golden values were printed with seven or more digits.
LR_DIGITS = 5e-7

EVAL = """data-bin/wikitext-103 --path checkpoints/checkpoint_best.pt --sample-break-mode complete
    --max-tokens 3072 --context-window 2560 --softmax-batch 1024 --gen-subset valid"""
DUMP = """data-bin/wikitext-103 --path checkpoints/checkpoint_best.pt --sample-break-mode none
    --max-tokens 3072 --softmax-batch 1024 --gen-subset train --context-window 1536 --tokens-per-sample 1536
    --dstore-mmap checkpoints/dstore --knn-keytype 'last_ffn_input' --dstore-size 103225485
    --model-overrides "{'knn_keytype': 'last_ffn_input'}" --save-knnlm-dstore --fp16"""
BUILD = """--dstore_mmap checkpoints/dstore --dstore_size 103225485 --faiss_index checkpoints/knn.index
    --num_keys_to_add_at_a_time 500000 --starting_point 0"""
KNN = f"""{EVAL} --dstore-filename checkpoints/dstore
    --indexfile checkpoints/knn.index --model-overrides "{{'knn_keytype': 'last_ffn_input'}}" --k 1024 --lmbda 0.25
    --dstore-size 103225485 --knn-keytype last_ffn_input --probe 32 --knnlm --fp16"""
PREPROCESS = """--only-source --trainpref T/wiki.train.tokens --validpref T/wiki.valid.tokens
    --testpref T/wiki.test.tokens --destdir data-bin/wikitext-103 --workers 20"""


def train_settings(text: str) -> RunConfig:
    flags = parse("fairseq-train", "", flag_groups(), shlex.split(text))
    return run_config(flags)


@pytest.mark.parametrize("text", [TRAIN_2019, TRAIN_2022], ids=["2019", "2022"])
def test_training_resolves_to_what_was_published(text: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = train_settings(text)

    assert settings.train.task == "language_modeling"
    assert settings.train.arch == "transformer_lm_wiki103"
    assert settings.train.criterion == "adaptive_loss"
    assert settings.task.data == "data-bin/wikitext-103"
    assert settings.task.tokens_per_sample == 3072
    assert settings.task.sample_break_mode == "none"
    assert settings.checkpoint.save_dir == "checkpoints/"
    assert settings.batching.max_tokens == 3072
    assert settings.batching.max_sentences is None
    assert settings.batching.required_batch_size_multiple == 8
    assert settings.validation.skip_invalid_size_inputs_valid_test
    assert settings.optimization.max_update == 286000
    assert settings.optimization.update_freq == (3,)
    assert settings.optimization.clip_norm == 0.1
    assert settings.common.seed == 1
    assert settings.device.fp16
    assert settings.optimizer == NAGConfig(momentum=0.99, weight_decay=0.0)
    # Only --ddp-backend is accepted without effect; no other flag of the recipe is ignored.
    assert [message.split()[0] for message in caplog.messages] == ["--ddp-backend"]


@pytest.mark.parametrize("text", [TRAIN_2019, TRAIN_2022], ids=["2019", "2022"])
def test_the_model_is_that_of_the_paper(text: str) -> None:
    model = train_settings(text).model
    assert (model.decoder_layers, model.decoder_embed_dim, model.decoder_ffn_embed_dim) == (16, 1024, 4096)
    assert model.decoder_attention_heads == 8
    assert (model.dropout, model.attention_dropout, model.activation_dropout) == (0.3, 0.1, 0.1)
    assert model.adaptive_softmax_dropout == 0.2
    assert model.adaptive_input
    assert model.input_cutoff == model.adaptive_softmax_cutoff == (20000, 60000)
    assert model.adaptive_input_factor == model.adaptive_softmax_factor == 4
    assert model.tie_adaptive_weights
    assert model.tie_adaptive_proj
    assert model.no_decoder_final_norm
    assert model.activation_fn == "relu"


@pytest.mark.parametrize("text", [TRAIN_2019, TRAIN_2022], ids=["2019", "2022"])
def test_both_spellings_give_the_golden_learning_rates(text: str) -> None:
    settings = train_settings(text)
    assert isinstance(settings.schedule, CosineConfig)
    lr_at = cosine(settings.schedule, settings.optimization)
    for num_updates, expected in GOLDEN_LR.items():
        assert lr_at(num_updates, 1) == pytest.approx(expected, rel=LR_DIGITS), num_updates
    assert stop_lr(settings.schedule, settings.optimization) == 1e-9


def test_both_spellings_give_the_same_schedule_at_every_update() -> None:
    old, new = train_settings(TRAIN_2019), train_settings(TRAIN_2022)
    lr_old, lr_new = cosine(old.schedule, old.optimization), cosine(new.schedule, new.optimization)
    assert [lr_old(n, 1) for n in range(0, 300_000, 997)] == [lr_new(n, 1) for n in range(0, 300_000, 997)]


@pytest.mark.parametrize("text", [TRAIN_2019, TRAIN_2022], ids=["2019", "2022"])
def test_the_checkpoint_records_every_setting(text: str) -> None:
    fields = train_settings(text).fields()
    assert fields["tokens_per_sample"] == fields["max_target_positions"] == 3072
    assert fields["arch"] == "transformer_lm_wiki103"
    assert fields["adaptive_softmax_cutoff"] == (20000, 60000)
    assert fields["momentum"] == 0.99
    assert fields["lr_shrink"] == 0.75


@pytest.mark.parametrize("backend", ["no_c10d", "legacy_ddp", "c10d", "pytorch_ddp"])
def test_every_ddp_backend_is_accepted(backend: str) -> None:
    assert train_settings(f"d --max-tokens 10 --ddp-backend {backend}").train.ddp_backend == backend


@pytest.mark.parametrize("word", ["--arch", "-a"])
def test_arch_has_a_short_name(word: str) -> None:
    assert train_settings(f"d --max-tokens 10 {word} transformer_lm_gpt").model.activation_fn == "gelu"


def test_a_typed_model_flag_wins_over_the_preset() -> None:
    model = train_settings("d --max-tokens 10 --arch transformer_lm_wiki103 --dropout 0.5 --decoder-layers 3").model
    assert (model.dropout, model.decoder_layers, model.decoder_embed_dim) == (0.5, 3, 1024)


def test_a_flag_of_a_schedule_that_was_not_chosen_is_named(caplog: pytest.LogCaptureFixture) -> None:
    train_settings("d --max-tokens 10 --lr-scheduler fixed --t-mult 2")
    assert caplog.messages == ["--t-mult 2 has no effect: it belongs to Schedule cosine, which was not chosen"]


def test_min_lr_is_a_bound_or_warns_under_other_schedules(caplog: pytest.LogCaptureFixture) -> None:
    """In 2019 it ended training under every schedule."""
    settings = train_settings("d --max-tokens 10 --lr-scheduler inverse_sqrt --min-lr 1e-09")
    assert stop_lr(settings.schedule, settings.optimization) == 1e-9 or "--min-lr" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d", "--max-tokens or --batch-size is required: the size of a batch"),
        (
            "d --max-tokens 10 --arch transformer_lm_wiki13",
            "--arch must be one of .*but is 'transformer_lm_wiki13'; did you mean transformer_lm_wiki103",
        ),
        ("d --max-tokens 10 --optimizer adan", "--optimizer must be one of nag, .* but is 'adan'; did you mean adam"),
        ("d --max-tokens 10 --criterion adaptive", "--criterion must be one of"),
        ("d --max-tokens 10 --sample-break-mode full", "--sample-break-mode must be one of"),
        ("d --max-tokens many", "--max-tokens must be a whole number, but is 'many'"),
        ("d --max-tokens 0", "--max-tokens must be at least 1, but is 0"),
        ("d --max-tokens 10 --tie-adaptive-weights", "--tie-adaptive-weights needs --adaptive-input"),
        ("d --max-tokens 10 --decoder-attention-heads 7", "--decoder-embed-dim 512 must be a multiple of"),
        ("d --max-token 10", "unrecognised argument --max-token; did you mean --max-tokens"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        train_settings(text)


def eval_flags(text: str) -> Flags:
    from fairseq.config.common import CommonConfig, DeviceConfig
    from fairseq.evaluate.config import EvalConfig
    from fairseq.knn.config import KNNConfig
    from fairseq.knn.datastore.config import DatastoreConfig, DumpConfig
    from fairseq.tasks import TASKS

    groups = (EvalConfig, *TASKS.configs(), KNNConfig, DumpConfig, DatastoreConfig, DeviceConfig, CommonConfig)
    flags = parse("fairseq-eval-lm", "", groups, shlex.split(text))
    return flags


def test_evaluation_parses() -> None:
    from fairseq_cli.shared.eval_settings import EvalSettings

    settings = EvalSettings(eval_flags(EVAL))
    assert settings.eval.path == "checkpoints/checkpoint_best.pt"
    assert (settings.eval.max_tokens, settings.eval.context_window, settings.eval.softmax_batch) == (3072, 2560, 1024)
    assert settings.eval.gen_subset == "valid"
    assert settings.eval.required_batch_size_multiple == 1
    assert not settings.neighbours.knn.knnlm
    assert not settings.dump.save_knnlm_dstore
    assert not settings.device.fp16


def test_writing_the_datastore_parses() -> None:
    from fairseq_cli.shared.eval_settings import EvalSettings

    settings = EvalSettings(eval_flags(DUMP))
    assert settings.eval.gen_subset == "train"
    assert settings.eval.context_window == 1536
    assert settings.eval.model_overrides == "{'knn_keytype': 'last_ffn_input'}"
    assert settings.dump.save_knnlm_dstore
    assert settings.dump.dstore_mmap == "checkpoints/dstore"
    assert settings.neighbours.dstore.dstore_size == 103225485
    assert settings.neighbours.dstore.knn_keytype == "last_ffn_input"
    assert settings.device.fp16


def test_evaluation_with_neighbours_parses() -> None:
    from fairseq_cli.shared.eval_settings import EvalSettings

    settings = EvalSettings(eval_flags(KNN))
    assert settings.neighbours.knn.knnlm
    assert (settings.neighbours.knn.k, settings.neighbours.knn.lmbda, settings.neighbours.knn.probe) == (1024, 0.25, 32)
    assert settings.neighbours.knn.dstore_filename == "checkpoints/dstore"
    assert settings.neighbours.knn.indexfile == "checkpoints/knn.index"
    assert settings.neighbours.knn.knn_temp == 1.0
    assert settings.neighbours.knn.knn_sim_func is None
    assert settings.neighbours.knn.faiss_metric_type == "l2"
    assert settings.neighbours.dstore.dstore_size == 103225485


def test_building_the_index_parses() -> None:
    from fairseq.knn.index.config import BuildConfig

    config = parse("build_dstore.py", "", (BuildConfig,), shlex.split(BUILD)).build(BuildConfig)
    assert (config.dstore_mmap, config.faiss_index) == ("checkpoints/dstore", "checkpoints/knn.index")
    assert (config.dstore_size, config.num_keys_to_add_at_a_time, config.starting_point) == (103225485, 500000, 0)
    assert (config.ncentroids, config.code_size, config.probe, config.seed) == (4096, 64, 8, 1)


def test_preprocessing_parses() -> None:
    command = pytest.importorskip("fairseq_cli.preprocess")
    seen: list[Flags] = []

    def keep(*args: object, **kwargs: object) -> tuple[Flags, list[str]]:
        seen.append(parse(*args, **kwargs))  # type: ignore[arg-type]
        raise SystemExit(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "parse", keep)
        with pytest.raises(SystemExit):
            command.main(shlex.split(PREPROCESS))
    assert seen[0].typed["workers"] == "20"
    assert seen[0].typed["only_source"] is True
    assert seen[0].typed["destdir"] == "data-bin/wikitext-103"
