"""The tiny model of the tables of broken files, loaded from Python."""

from fairseq.hub import LanguageModelHub
from fairseq.models.transformer_lm import TransformerLanguageModel
from knnlm import KNN
from tests.builders.cases import Artefacts

K, LMBDA = 20, 0.3


def load(good: Artefacts, **more: object) -> LanguageModelHub:
    """Returns the model."""
    lm: LanguageModelHub = TransformerLanguageModel.from_pretrained(
        good.checkpoint.parent, good.checkpoint.name, good.data, **more
    )
    return lm


def load_with_neighbours(good: Artefacts) -> LanguageModelHub:
    """Returns the model with its training text as neighbours, every list visited."""
    return load(good, knn=KNN(good.store, good.index, k=K, probe=4, lmbda=LMBDA, knn_temp=1))
