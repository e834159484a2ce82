"""Answers of the model and of the mixture against float64 arithmetic over every word."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError
from fairseq.harness.scoring import Request, Scorer
from fairseq.models.huggingface.loading import load_model
from fairseq.runtime.precision import Precision
from fairseq.text.model_tokenizer import SHIFT
from knnlm import KNN
from tests.builders.harness_model import DOCUMENTS, LMBDA, LONGEST, TEMPERATURE, K, TinyModel

CPU = Precision(DeviceConfig(), torch.device("cpu"))


@pytest.fixture(scope="module")
def requests(llama: TinyModel) -> list[tuple[list[int], list[int]]]:
    """Returns contexts and continuations in the tokenizer's ids; some are greedy by the model, some by the mixture."""
    ids = [llama.encode(document) for document in DOCUMENTS]
    found = [(ids[0][:5], ids[0][5:9]), (ids[0][:5], ids[0][5:6]), (ids[0][:5], ids[1][:1]), (ids[1][:1], ids[1][1:])]
    found += [(ids[2][:50], ids[2][50:60]), (ids[2][:LONGEST], ids[2][:LONGEST]), (ids[3], [])]
    for most_probable in (llama.model_log_p, llama.log_p):
        context = ids[3][:6]
        continuation = list[int]()
        for _ in range(3):
            continuation.append(int(most_probable(context + continuation)[-1].argmax()))
        found += [(context, continuation), (context, [*continuation, 7])]
    return found


def answered(
    llama: TinyModel, requests: Sequence[tuple[list[int], list[int]]], **settings: Any
) -> list[tuple[Any, Any]]:
    """Returns the answers to requests in the tokenizer's ids."""
    knn = KNN(llama.prefix, llama.index, k=K, lmbda=LMBDA, knn_temp=TEMPERATURE)
    memory, lmbda = knn.open_for(llama.identity)
    greedy = settings.pop("greedy", True)
    model = settings.pop("model", None) or load_model(llama.path)
    scorer = Scorer(model, CPU, memory, lmbda, longest_row=LONGEST, **settings)
    here = [Request([i + SHIFT for i in context], [i + SHIFT for i in rest]) for context, rest in requests]
    return scorer.score(here, greedy=greedy)


def expected(log_p: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Returns the sum, and whether each token is the most probable one, of a row that is cut as the harness cuts it."""
    row = [*context, *continuation][-LONGEST - 1 : -1]
    log_p_TV = log_p(row)[len(row) - len(continuation) :]
    places = np.arange(len(continuation))
    return float(log_p_TV[places, continuation].sum()), bool((log_p_TV.argmax(1) == continuation).all())


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_answers_are_those_of_float64(llama: TinyModel, requests: Any, batch_size: int | None) -> None:
    found = answered(llama, requests, batch_size=batch_size)
    for side, log_p in enumerate((llama.model_log_p, llama.log_p)):
        assert len({answers[side].is_greedy for answers in found}) == 2, "both kinds must be there"
        for (context, continuation), answers in zip(requests, found, strict=True):
            if continuation:
                total, is_greedy = expected(log_p, context, continuation)
                assert answers[side].log_p == pytest.approx(total, abs=1e-5 * max(len(continuation), 1))
                assert answers[side].is_greedy == is_greedy, (side, context, continuation)


def test_mixture_and_model_choose_other_words(llama: TinyModel, requests: Any) -> None:
    """The test above would not see a mixture that asks for the model's most probable word."""
    found = answered(llama, requests)
    assert any(model.is_greedy and not mixture.is_greedy for model, mixture in found)
    assert any(mixture.is_greedy and not model.is_greedy for model, mixture in found)


def test_nothing_to_continue_is_certain(llama: TinyModel) -> None:
    [(model, mixture)] = answered(llama, [([5, 6], [])])
    assert (model.log_p, model.is_greedy) == (mixture.log_p, mixture.is_greedy) == (0.0, True)


def test_without_greedy_the_sums_are_the_same(llama: TinyModel, requests: Any) -> None:
    with_greedy, without = answered(llama, requests), answered(llama, requests, greedy=False)
    for one, other in zip(with_greedy, without, strict=True):
        for side in (0, 1):
            assert other[side].log_p == pytest.approx(one[side].log_p, abs=1e-5)
            assert not other[side].is_greedy


class Counting:
    """A model that counts the rows that it reads, and has no room for more than some."""

    def __init__(self, model: Any, most_rows: int = 99) -> None:
        self.model, self.most_rows, self.rows = model, most_rows, list[int]()
        self.log_prob, self.target_log_prob = model.log_prob, model.target_log_prob

    def __call__(self, source_BT: torch.Tensor, first: int) -> Any:
        if len(source_BT) > self.most_rows:
            raise torch.OutOfMemoryError("no room")
        self.rows.append(len(source_BT))
        return self.model(source_BT, first)


def test_a_row_that_several_ask_for_is_read_once(llama: TinyModel) -> None:
    """The choices of a question that has one token each."""
    model = Counting(load_model(llama.path))
    asked = [([5, 6, 7], [choice]) for choice in (8, 9, 10, 11)]
    found = answered(llama, asked, model=model)
    assert model.rows == [1]
    log_p_V = llama.log_p([5, 6, 7])[-1]
    assert [mixture.log_p for _, mixture in found] == pytest.approx(log_p_V[[8, 9, 10, 11]].tolist(), abs=1e-5)


def test_a_batch_without_room_is_read_in_halves(
    llama: TinyModel, requests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(empty_cache=lambda: None))
    model = Counting(load_model(llama.path), most_rows=2)
    found = answered(llama, requests, model=model)
    assert max(model.rows) == 2
    for one, other in zip(found, answered(llama, requests), strict=True):
        assert one[1].log_p == pytest.approx(other[1].log_p, abs=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        answered(llama, requests, model=Counting(load_model(llama.path), most_rows=0))


def test_a_continuation_that_is_longer_than_a_row_is_refused(llama: TinyModel) -> None:
    with pytest.raises(ConfigError, match=f"at most {LONGEST} tokens.* has {LONGEST + 1}; raise max_length"):
        answered(llama, [([5], list(range(5, LONGEST + 6)))])
