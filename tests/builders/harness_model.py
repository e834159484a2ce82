"""A tiny random Llama and a datastore of its own; its mixture by brute force, in float64."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from fairseq.checkpoints.huggingface import read_model_directory
from fairseq.hub import from_pretrained
from fairseq.models.protocol import ModelIdentity
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.small_store import write_store
from tests.builders.tiny_llama import TEXT, write_tiny_llama

K, TEMPERATURE, LMBDA = 12, 3.0, 0.4
LONGEST = 32  # positions of the model
DOCUMENTS = (
    TEXT[:400],
    "A short text.\n",
    "The children played by the river. " * 9,
    "for number in numbers:\n    print(number)\n",
)


@dataclass(frozen=True)
class TinyModel:
    """A model's directory, and the datastore of its text."""

    path: Path
    prefix: Path
    index: Path
    keys_ND: np.ndarray
    values_N: np.ndarray

    @cached_property
    def model(self) -> Any:
        """The model of transformers."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32).eval()

    @property
    def args(self) -> dict[str, Any]:
        """Returns ``--model_args`` with neighbours."""
        names = {"path": str(self.path), "dstore_filename": str(self.prefix), "indexfile": str(self.index)}
        return {**names, "k": K, "knn_temp": TEMPERATURE, "lmbda": LMBDA, "device": "cpu"}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path)

    @property
    def identity(self) -> ModelIdentity:
        """What the datastore is checked against."""
        return ModelIdentity(weights_sha256=read_model_directory(self.path).weights_sha256)

    def encode(self, text: str) -> list[int]:
        """Returns the tokenizer's ids."""
        return list(self.tokenizer.encode(text))

    def model_log_p(self, ids: list[int]) -> np.ndarray:
        """Returns the model's ln p of every word behind each id, ``[T, V]``."""
        return self.vectors(ids)[0]

    def vectors(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ln p of every word behind each id ``[T, V]``, and the last feed-forward input ``[T, C]``, float64."""
        return vectors(self.model, ids)

    def log_p(self, ids: list[int]) -> np.ndarray:
        """Returns ln of the mixture behind each id, ``[T, V]``, by brute force in float64."""
        log_p_TV, query_TC = self.vectors(ids)
        distance_TN = ((query_TC[:, None] - self.keys_ND[None].astype(np.float64)) ** 2).sum(2)
        p_TV = np.zeros_like(log_p_TV)
        for row, distance_N in enumerate(distance_TN):
            near = np.argsort(distance_N, kind="stable")[:K]
            weight = np.exp(-(distance_N[near] - distance_N[near].min()) / TEMPERATURE)
            np.add.at(p_TV[row], self.values_N[near] - SHIFT, weight / weight.sum())
        with np.errstate(divide="ignore"):
            return np.log((1 - LMBDA) * np.exp(log_p_TV) + LMBDA * p_TV)


def vectors(model: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a model's ln p of every word behind each id, and its last feed-forward input, float64."""
    caught = []
    hook = model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        logits_TV = model(torch.tensor([ids])).logits[0].double()
    hook.remove()
    return logits_TV.log_softmax(1).numpy(), caught[0][0].double().numpy()


def make_tiny_model(root: Path) -> TinyModel:
    """Returns the model, and the datastore of a text that is not among the documents."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_tiny_llama(root / "model", max_position_embeddings=LONGEST)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    keys, values = [], []
    text = TEXT[200:] + "The river was fine. A short text says what comes next.\n" * 2
    ids = tokenizer.encode(text)
    for start in range(0, len(ids) - 1, 31):
        part = ids[start : start + 32]
        keys.append(vectors(model, part)[1][:-1].astype(np.float32))
        values.append(np.array(part[1:]) + SHIFT)
    keys_ND, values_N = np.concatenate(keys), np.concatenate(values)
    dictionary = from_pretrained(path).dictionary
    known = {"dictionary_sha256": dictionary.sha256(), "vocabulary_size": len(dictionary)}
    weights = read_model_directory(path).weights_sha256
    write_store(root, "dstore", keys_ND, values_N, weights_sha256=weights, **known)
    index = faiss.IndexFlatL2(keys_ND.shape[1])
    index.add(keys_ND)
    faiss.write_index(index, str(root / "knn.index"))
    return TinyModel(path, root / "dstore", root / "knn.index", keys_ND, values_N)
