"""The tiny model of the tables of broken files, loaded from Python."""

from collections.abc import Iterator
from pathlib import Path

import faiss
import pytest
import torch

from fairseq.hub import LanguageModelHub
from fairseq.models.transformer_lm import TransformerLanguageModel
from knnlm import KNN
from tests.builders.cases import Artefacts

K, LMBDA = 20, 0.3


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Keeps torch and FAISS to one thread: models this small lose time by sharing their work."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


def load(good: Artefacts, **more: object) -> LanguageModelHub:
    lm: LanguageModelHub = TransformerLanguageModel.from_pretrained(
        good.checkpoint.parent, good.checkpoint.name, good.data, **more
    )
    return lm


@pytest.fixture(scope="session")
def lm(artefacts: Artefacts) -> LanguageModelHub:
    """Returns the model alone: 40 ids, rows of 16 tokens."""
    return load(artefacts)


@pytest.fixture(scope="session")
def knn_lm(artefacts: Artefacts) -> LanguageModelHub:
    """Returns the model with its training text as neighbours, every list visited."""
    return load(artefacts, knn=KNN(artefacts.store, artefacts.index, k=K, probe=4, lmbda=LMBDA))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the directory that torch's cache is moved to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"
