"""The scorer: each target once, whatever the batching; several models; a memory."""

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq.config.common import DeviceConfig
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import PAD
from fairseq.evaluate import sequence_scorer
from fairseq.evaluate.mixture import Memory, MemoryScores, Mixture, ScoredTokens
from fairseq.evaluate.sequence_scorer import ScoredBatch, SequenceScorer
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.runtime.precision import Precision
from tests.builders.small_model import BANDS, CPU, SMALL, small_model

FLOAT32_ATOL = 1e-5  # one layer in float32 under another padding
TOKENS = np.random.default_rng(0).integers(4, 40, 37)


def make(seed: int) -> TransformerLanguageModel:
    return small_model(BANDS, seed).eval()


def blocks(context_window: int = 6) -> BlockDataset:
    return BlockDataset(TOKENS, np.array([37]), "none", 5, context_window)


FIELDS = ("block_idx_N", "target_N", "log_p_N", "model_log_p_N", "memory_log_p_NM")


def score(scorer: SequenceScorer, batches: list[list[int]]) -> ScoredBatch:
    parts = [scorer.score(blocks().collate(np.array(rows))) for rows in batches]
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in FIELDS}
    order = np.argsort(joined["block_idx_N"], kind="stable")
    return ScoredBatch(**{name: array[order] for name, array in joined.items()})


def test_equals_the_model_asked_column_by_column() -> None:
    model = make(1)
    found = SequenceScorer([model], CPU).score(blocks().collate(np.arange(8)))
    expected = []
    for idx in range(8):
        batch = blocks().collate(np.array([idx]))
        with torch.no_grad():
            features = model(torch.from_numpy(batch.source_BT)).features_BSC[0]
            for column, target in enumerate(batch.target_BT[0].tolist()):
                if target != PAD:
                    log_p = model.target_log_prob(features[column : column + 1], torch.tensor([target]))
                    expected.append(log_p.item())
    np.testing.assert_allclose(found.log_p_N, expected, atol=FLOAT32_ATOL, rtol=0)
    assert found.target_N.tolist() == TOKENS.tolist()
    assert found.block_idx_N.tolist() == [i // 5 for i in range(37)]
    assert list(found.blocks()) == [(i, slice(5 * i, min(5 * i + 5, 37))) for i in range(8)]
    assert found.log_p_N.dtype == np.float64


@pytest.mark.parametrize(
    "batches", [[[0, 1], [2, 3, 4], [5, 6, 7]], [[7, 0], [3, 1, 2], [6, 5, 4]], [[i] for i in range(8)]]
)
def test_any_batching_and_order_gives_the_same(batches: list[list[int]]) -> None:
    scorer = SequenceScorer([make(1)], CPU)
    whole, cut = score(scorer, [[*range(8)]]), score(scorer, batches)
    assert cut.target_N.tolist() == whole.target_N.tolist() == TOKENS.tolist()
    np.testing.assert_allclose(cut.log_p_N, whole.log_p_N, atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_softmax_batch_bounds_the_rows_of_the_output_layer_and_changes_nothing(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(1)
    whole = score(SequenceScorer([model], CPU), [[*range(8)]])
    seen: list[int] = []
    original = model.target_log_prob
    monkeypatch.setattr(model, "target_log_prob", lambda f, t: seen.append(len(f)) or original(f, t))
    cut = score(SequenceScorer([model], CPU, softmax_batch=rows), [[*range(8)]])
    np.testing.assert_allclose(cut.log_p_N, whole.log_p_N, atol=FLOAT32_ATOL, rtol=0)
    assert max(seen) == min(rows, 37) and sum(seen) == 37


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


@pytest.mark.pitfall(15)
def test_nothing_as_wide_as_the_vocabulary_is_made_for_every_target() -> None:
    """The targets are rare words of the second band: their own 992 columns are needed, and 10 of the head."""
    model = small_model(replace(SMALL, adaptive_softmax_cutoff=(8, 1000)), num_ids=4000).eval()
    with LargestTensor() as largest:
        SequenceScorer([model], CPU).score(blocks().collate(np.arange(8)))
    assert 0 < largest.numel < 4000 * len(TOKENS)


def test_several_models_average_their_probabilities() -> None:
    one, two = make(1), make(2)
    alone = [score(SequenceScorer([m], CPU), [[*range(8)]]).log_p_N for m in (one, two)]
    both = score(SequenceScorer([one, two], CPU), [[*range(8)]]).log_p_N
    np.testing.assert_allclose(np.exp(both), (np.exp(alone[0]) + np.exp(alone[1])) / 2, rtol=1e-12)


class Constant(Memory):
    """A memory that gives every target the same probability and remembers what it was asked."""

    def __init__(self, log_p: float) -> None:
        self.log_p = log_p
        self.asked: list[ScoredTokens] = []

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        self.asked.append(tokens)
        return MemoryScores(torch.full((len(tokens.target_N),), self.log_p))


def test_a_memory_is_mixed_in_at_its_weight() -> None:
    model, source = make(1), Constant(math.log(0.5))
    alone = score(SequenceScorer([model], CPU), [[*range(8)]]).log_p_N
    mixed = score(SequenceScorer([model], CPU, Mixture([(source, 0.25)])), [[*range(8)]]).log_p_N
    np.testing.assert_allclose(np.exp(mixed), 0.75 * np.exp(alone) + 0.25 * 0.5, rtol=1e-6)


@pytest.mark.parametrize("targets", [1, 7, 13, 10_000])
@pytest.mark.parametrize("positions", [1, 20, 10_000])
@pytest.mark.parametrize("overlap", [False, True])
def test_batches_and_memory_may_be_taken_in_any_parts(
    targets: int, positions: int, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``overlap`` is what a GPU does: the memory answers in a thread."""
    model, rows = make(1), [[0, 1], [2], [3, 4, 5], [6, 7]]
    whole = score(SequenceScorer([model], CPU, Mixture([(FirstFeature(), 0.25)])), rows)
    monkeypatch.setattr(sequence_scorer, "TARGETS_AT_ONCE", targets)
    monkeypatch.setattr(sequence_scorer, "CPU_POSITIONS", positions)
    monkeypatch.setattr(SequenceScorer, "_overlaps", overlap)
    scorer = SequenceScorer([model], CPU, Mixture([(FirstFeature(), 0.25)]))
    parts = list(scorer.scored([blocks().collate(np.array(row)) for row in rows]))
    assert [part.block_idx_N[0] for part in parts] == [0, 2, 3, 6]
    found = np.concatenate([part.log_p_N for part in parts])
    np.testing.assert_allclose(found, whole.log_p_N, atol=FLOAT32_ATOL, rtol=0)
    answers = np.concatenate([part.columns["answers"] for part in parts])
    assert np.array_equal(answers, np.concatenate([part.memory_log_p_NM[:, 0] for part in parts]))
    np.testing.assert_allclose(np.log(0.75 * np.exp(whole.model_log_p_N) + 0.25 * np.exp(answers)), found, atol=1e-5)


def test_a_processor_takes_no_more_positions_at_once_than_its_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_scorer, "CPU_POSITIONS", 30)
    model, shapes = make(1), list[torch.Size]()
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    batch, scorer = blocks().collate(np.arange(8)), SequenceScorer([model], CPU)
    for ask in (scorer.score, scorer.context_vectors):
        shapes.clear()
        ask(batch)
        assert sum(rows for rows, _ in shapes) == 8 and all(shape.numel() <= 30 for shape in shapes)


class OneAtATime(Memory):
    """A memory that cannot be asked by two threads at once."""

    in_order = True

    def __init__(self) -> None:
        self._asked = threading.Lock()

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        assert self._asked.acquire(blocking=False)
        time.sleep(0.02)
        self._asked.release()
        return MemoryScores(tokens.log_p_N)


def test_a_memory_is_asked_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequenceScorer, "_overlaps", True)
    scorer = SequenceScorer([make(1)], CPU, Mixture([(OneAtATime(), 0.25)]))
    assert len(list(scorer.scored([blocks().collate(np.array([row])) for row in range(8)]))) == 8


class FirstFeature(Memory):
    """A memory whose answer is the query's, so that answers given to other queries are seen."""

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        log_p_N = torch.nn.functional.logsigmoid(tokens.query_ND[:, 0] + tokens.target_N)
        return MemoryScores(log_p_N, columns={"answers": log_p_N.numpy()})


class Notes(Memory):
    """A memory that notes what it is asked."""

    def __init__(self, *, in_order: bool, needs_known: bool = False) -> None:
        self.in_order, self.needs_known = in_order, needs_known
        self.asked: list[ScoredTokens] = []
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        self.asked.append(tokens)
        return MemoryScores(tokens.log_p_N, columns={f"number {self.in_order}": np.arange(len(tokens.target_N))})


@pytest.mark.parametrize("overlap", [False, True])
def test_one_memory_is_asked_batch_by_batch_and_another_for_all_at_once(
    overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a column of its own, whose rows come back with the batches."""
    monkeypatch.setattr(SequenceScorer, "_overlaps", overlap)
    patient, ordered = Notes(in_order=False), Notes(in_order=True)
    scorer = SequenceScorer([make(1)], CPU, Mixture([(patient, 0.5), (ordered, 0.25)]))
    parts = list(scorer.scored([blocks().collate(np.array(row)) for row in ([0, 1], [2], [3, 4, 5], [6, 7])]))
    assert [tokens.block_idx_N.tolist() for tokens in patient.asked] == [[i // 5 for i in range(37)]]
    assert [sorted({*tokens.block_idx_N}) for tokens in ordered.asked] == [[0, 1], [2], [3, 4, 5], [6, 7]]
    assert np.concatenate([part.columns["number False"] for part in parts]).tolist() == [*range(37)]
    assert [part.columns["number True"].tolist() for part in parts] == [[*range(n)] for n in (10, 5, 15, 7)]
    assert all(part.memory_log_p_NM.shape == (len(part.target_N), 2) for part in parts)
    assert (patient.begun, ordered.begun) == (1, 1)
    assert patient.asked[0].known is None


def test_two_columns_of_one_name_are_a_bug() -> None:
    mixture = Mixture([(FirstFeature(), 0.5), (FirstFeature(), 0.25)])
    with pytest.raises(AssertionError):
        SequenceScorer([make(1)], CPU, mixture).score(blocks().collate(np.arange(8)))


def test_what_is_known_before_a_token_is_computed_where_a_memory_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One memory of two needs it."""
    monkeypatch.setattr(sequence_scorer, "CPU_POSITIONS", 20)
    model, memory = make(1), Notes(in_order=False, needs_known=True)
    batch = blocks().collate(np.arange(8))
    SequenceScorer([model], CPU, Mixture([(memory, 0.5), (Constant(-1.0), 0.25)])).score(batch)
    with torch.no_grad():
        features_BTC = model(torch.from_numpy(batch.source_BT)).features_BSC
        log_p_NV = model.log_prob(features_BTC[torch.from_numpy(batch.target_BT) != PAD]).double()
    known = memory.asked[0].known
    assert known is not None
    assert known.last_token_N.tolist() == [2, *TOKENS[:-1]]
    np.testing.assert_allclose(known.max_log_p_N, log_p_NV.amax(1), atol=FLOAT32_ATOL)
    np.testing.assert_allclose(known.entropy_N, -(log_p_NV.exp() * log_p_NV).sum(1), atol=FLOAT32_ATOL)


def test_several_models_have_no_memories() -> None:
    with pytest.raises(AssertionError):
        SequenceScorer([make(1), make(2)], CPU, Mixture([(Constant(-1.0), 0.5)]))


def test_weight_0_is_the_model_to_the_bit() -> None:
    model = make(1)
    alone = score(SequenceScorer([model], CPU), [[*range(8)]]).log_p_N
    mixed = score(SequenceScorer([model], CPU, Mixture([(Constant(-math.inf), 0.0)])), [[*range(8)]])
    assert mixed.log_p_N.tolist() == alone.tolist()


def test_the_memory_is_asked_with_the_feed_forward_inputs_in_float32() -> None:
    model, source = make(1), Constant(-1.0)
    batch = blocks().collate(np.array([3]))
    SequenceScorer([model], CPU, Mixture([(source, 0.5)])).score(batch)
    expected = model(torch.from_numpy(batch.source_BT)).ffn_input_BSC[0, 6:].detach()
    [tokens] = source.asked
    assert tokens.query_ND.dtype == torch.float32
    torch.testing.assert_close(tokens.query_ND, expected, atol=FLOAT32_ATOL, rtol=0)


def test_a_memory_that_says_nothing_of_itself_is_asked_for_all_at_once_and_nothing_is_computed_for_it() -> None:
    source = Constant(-1.0)
    scorer = SequenceScorer([make(1)], CPU, Mixture([(source, 0.5)]))
    assert len(list(scorer.scored([blocks().collate(np.array([row])) for row in range(8)]))) == 8
    assert [(len(tokens.target_N), tokens.known) for tokens in source.asked] == [(37, None)]


def test_context_vectors_ask_nothing_of_the_output_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make(1), blocks().collate(np.array([0, 3, 7]))
    monkeypatch.setattr(model, "target_log_prob", None)
    keys_NC, target_N = SequenceScorer([model], CPU).context_vectors(batch)
    assert keys_NC.shape == (12, 16)
    assert target_N.tolist() == [*TOKENS[:5], *TOKENS[15:20], *TOKENS[35:]]


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_bfloat16_is_near_float32() -> None:
    half = Precision(DeviceConfig(cpu=True, bf16=True), torch.device("cpu"))
    model = make(1)
    exact = score(SequenceScorer([model], CPU), [[*range(8)]]).log_p_N
    rough = score(SequenceScorer([model], half), [[*range(8)]]).log_p_N
    assert 0 < abs(rough - exact).max() < 0.1  # eight bits of mantissa
