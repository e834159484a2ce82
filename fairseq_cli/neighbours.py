"""The memories of a run, and what keeps them: a datastore's neighbours, weighed or saved, and the cache."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.evaluate.cache_sweep import make_cache
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.mixture import Memory, Mixture
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import DatastoreConfig
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.retrieval.recorder import RetrievalRecorder, SavedNeighbours, open_recorder
from fairseq.knn.retrieval.results import check_results
from fairseq.knn.weight.apply import open_weighed
from fairseq.models.protocol import ModelIdentity
from fairseq.tasks.opening import OpenedModels, identity_of

if TYPE_CHECKING:
    from fairseq_cli.eval_settings import Settings


def open_mixture(
    evaluation: Evaluation, settings: "Settings", stack: ExitStack
) -> tuple[Mixture, RetrievalRecorder | None]:
    """Returns what is mixed in, and what keeps it, where that was asked for; the latter is closed with the stack."""
    memories: list[tuple[Memory, float | None]] = []
    recorder = None
    size, width = len(evaluation.dataset.tokens), evaluation.models[0].key_dimension
    cache = make_cache(settings.cache, size, width) if settings.has_cache else None
    if settings.needs_neighbours and settings.retrieval.save_retrieval is not None:
        check_results(Path(settings.retrieval.save_retrieval))
        model = identity_of(evaluation.models[0], evaluation.task.dictionary, evaluation.checkpoints[0])
        neighbours = open_neighbours(model, settings.knn, settings.dstore)
        caches = settings.cache if cache is not None else None
        recorder = open_recorder(neighbours, evaluation, settings.eval, settings.retrieval, caches)
        if recorder is not None:
            stack.enter_context(recorder)
        memories.append((SavedNeighbours(neighbours) if recorder is not None else neighbours, settings.knn.lmbda))
    elif settings.needs_neighbours:
        memories.append(open_memory(evaluation, settings))
    if cache is not None:
        memories.append((cache, settings.cache.weight))
    return Mixture(memories), recorder


def open_memory(opened: Evaluation | OpenedModels, settings: "Settings") -> tuple[Memory, float | None]:
    """Returns the neighbours and their weight λ; None where each token has a λ of its own."""
    model = identity_of(opened.models[0], opened.task.dictionary, opened.checkpoints[0])
    neighbours = open_neighbours(model, settings.knn, settings.dstore)
    if settings.weight.lmbda_model is None:
        return neighbours, settings.knn.lmbda
    assert model.weights_sha256 is not None
    return open_weighed(neighbours, settings.weight, opened.task.dictionary, model.weights_sha256), None


def open_neighbours(model: ModelIdentity, knn: KNNConfig, dstore: DatastoreConfig) -> NeighbourSource:
    """Returns the datastores after checking that they belong to the model."""
    import knnlm

    model = dataclasses.replace(model, key_type=dstore.knn_keytype)
    return knnlm.open_neighbours(knn, model, rows=dstore.dstore_size, key_fp16=dstore.dstore_fp16)
