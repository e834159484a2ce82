"""Parity with the original programs on a trained checkpoint and real text (../shared/golden/knnlm)."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.checkpoints.format import load_checkpoint
from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import resolve
from fairseq.criterions.perplexity import Perplexity
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import LanguageModelingConfig
from fairseq.data.dictionary import PAD
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import prepare, score_all
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel, build_transformer_lm
from fairseq.models.upgrade import load_state
from fairseq.tasks import TASKS
from tests.builders.small_model import CPU
from tests.oracles.adaptive_softmax import all_log_probs
from tests.oracles.transformer import decode, under

LOSS_ATOL = 2e-5  # float32 sums in another order, says the golden README
KEY_ATOL = 1e-4  # the same for keys, whose norms are about 3
FLOAT32_ATOL = 1e-4  # our float32 against the oracle's float64, four layers deep
CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_2019_layout.pt")
NUM_IDS, EDGES = 16304, [0, 4000, 10000, 16304]


def golden_model(golden_dir: Path, name: str) -> TransformerLanguageModel:
    checkpoint = load_checkpoint(golden_dir / name)
    fields = {**checkpoint.fields, "max_target_positions": 256}
    model = build_transformer_lm(resolve(TransformerConfig, fields), NUM_IDS)
    assert load_state(model, checkpoint.state) == []
    return model.eval()


def golden_tokens(golden_dir: Path, split: str) -> np.ndarray:
    return np.fromfile(golden_dir / "data-bin" / f"{split}.bin", "<u2")


def test_a_trained_model_equals_the_oracle_on_real_text(golden_dir: Path) -> None:
    model = golden_model(golden_dir, CHECKPOINTS[0])
    tokens = golden_tokens(golden_dir, "valid")[:24].astype(np.int64)
    state = under({name: value.double().numpy() for name, value in model.state_dict().items()}, "decoder.")
    features_TC, _ = decode(state, [2, *tokens[:-1].tolist()], EDGES, 4)
    softmax = under(state, "adaptive_softmax.")
    expected = [
        all_log_probs(softmax, x_C, EDGES, tied_projections=True)[target]
        for x_C, target in zip(features_TC, tokens.tolist(), strict=True)
    ]
    data = BlockDataset(tokens, np.array([24]), "none", 24)
    found = SequenceScorer([model], CPU).score(data.collate(np.array([0])))
    np.testing.assert_allclose(found.log_p_N, expected, atol=FLOAT32_ATOL, rtol=0)


def test_keys_equal_the_originals(golden_dir: Path) -> None:
    window, block_size = 128, 128
    tokens = golden_tokens(golden_dir, "train")
    data = BlockDataset(tokens, np.array([len(tokens)]), "none", block_size, window)
    sample = np.load(golden_dir / "dstore_sample.npz")
    rows, keys = sample["rows"], sample["keys"]
    blocks = np.unique(rows // block_size)[:: len(np.unique(rows // block_size)) // 3]
    scorer = SequenceScorer([golden_model(golden_dir, CHECKPOINTS[1])], CPU)
    for block in blocks.tolist():  # row r is target r % B of block r // B + 1, the first whose context is full
        keys_NC, _ = scorer.context_vectors(data.collate(np.array([block + 1])))
        chosen = rows // block_size == block
        np.testing.assert_allclose(keys_NC[rows[chosen] % block_size].numpy(), keys[chosen], atol=KEY_ATOL, rtol=0)


@pytest.mark.pitfall(32)
def test_the_word_pad_is_read_and_scored_as_fairseq_does(golden_dir: Path) -> None:
    """Every tenth of 13 words of 1,000 is <pad>, of which fairseq-eval-lm 0.12 says: "Loss (base 2): 8.3158".

    Its sum is over the first n positions of each block, n its words that are not <pad>, and its count is theirs.
    """
    tokens = golden_tokens(golden_dir, "test")[:1000].astype(np.int64)
    tokens[9::13] = PAD
    data = BlockDataset(tokens, np.array([1000]), "none", 256)
    found = SequenceScorer([golden_model(golden_dir, CHECKPOINTS[0])], CPU).score(data.collate(np.arange(4)))
    np.testing.assert_array_equal(found.target_N, tokens)
    pieces = np.split(found.log_p_N, [256, 512, 768])
    words = [int((block != PAD).sum()) for block in np.split(tokens, [256, 512, 768])]
    first = np.concatenate([piece[:count] for piece, count in zip(pieces, words, strict=True)])
    assert len(first) == 923
    assert -first.mean() / np.log(2) == pytest.approx(8.3158, abs=5e-5 + LOSS_ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("row", range(3))
def test_loss_of_the_valid_split(golden_dir: Path, checkpoint: str, row: int) -> None:
    expected: dict[str, Any] = json.loads((golden_dir / "expected.json").read_text())["eval"][row]
    found_loss, found_targets, num_left_out = evaluate(golden_dir, checkpoint, expected["flags"])
    assert found_targets == expected["targets"]
    assert found_targets + num_left_out == 55514
    assert found_loss == pytest.approx(expected.get("loss_fp64", expected["loss_base2"]), abs=LOSS_ATOL)


def evaluate(golden_dir: Path, checkpoint: str, flags: str) -> tuple[float, int, int]:
    """Loss in bits, targets and tokens left out, through the pieces that the command joins."""
    argv = [
        str(golden_dir / "data-bin"),
        "--path",
        str(golden_dir / checkpoint),
        "--tokens-per-sample",
        "256",
        "--softmax-batch",
        "1024",
        "--max-tokens",
        "1024",
        "--gen-subset",
        "valid",
        *shlex.split(flags),
    ]
    typed = parse("test", "test", (EvalConfig, *TASKS.configs(), DeviceConfig, CommonConfig), argv)
    config = typed.build(EvalConfig)
    evaluation = prepare(config, typed.given(LanguageModelingConfig), CPU)
    perplexity = Perplexity()
    scorer = SequenceScorer(evaluation.models, CPU, softmax_batch=config.softmax_batch)
    for scored in score_all(evaluation, scorer, perplexity):
        perplexity.add(scored.log_p_N, scored.target_N)
    return perplexity.loss, perplexity.count, evaluation.num_left_out
