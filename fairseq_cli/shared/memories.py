"""The memories of a run, and what keeps them: a datastore's neighbours, weighed or saved, and the cache."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path

from fairseq.evaluate.cache import make_cache
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.mixture import Memory, Mixture
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import DatastoreConfig
from fairseq.knn.datastore.identity import recorded_key_type, stored_key_type, use_keys
from fairseq.knn.neighbours.contexts import Cut, tell_of_contexts
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.own_rows import find_own_rows, own_text, own_text_warning
from fairseq.knn.retrieval.recorder import RetrievalRecorder, SavedNeighbours, open_recorder
from fairseq.knn.retrieval.results import check_results
from fairseq.knn.weight.apply import open_weighed
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.log import logger
from fairseq.tasks.opening import OpenedModels
from fairseq_cli.shared.eval_settings import EvalSettings, NeighbourSettings


def open_mixture(
    evaluation: Evaluation, settings: EvalSettings, stack: ExitStack, group: ProcessGroup
) -> tuple[Mixture, RetrievalRecorder | None]:
    """Returns what is mixed in, and what keeps it, where that was asked for; the latter is closed with the stack."""
    memories: list[tuple[Memory, float | None]] = []
    recorder, config = None, settings.neighbours
    saved = settings.retrieval.save_retrieval
    if saved is not None:
        check_results(Path(saved))
    neighbours = open_neighbours(evaluation, config.knn, config.dstore) if saved is not None or config.needed else None
    if settings.has_cache and neighbours is None:
        use_keys(evaluation.models[0], None)
    size, width = len(evaluation.dataset.tokens), evaluation.models[0].key_dimension
    cache = make_cache(settings.cache, size, width) if settings.has_cache else None
    if neighbours is not None:
        stack.callback(neighbours.close)
        _mind_texts(neighbours, evaluation, settings)
    if neighbours is not None and saved is not None:
        caches = settings.cache if cache is not None else None
        recorder = open_recorder(neighbours, evaluation, settings.eval, settings.retrieval, caches, group)
        if recorder is not None:
            stack.enter_context(recorder.writer)
        memories.append((SavedNeighbours(neighbours) if recorder is not None else neighbours, config.knn.lmbda))
    elif neighbours is not None:
        memories.append(_weighed(neighbours, evaluation, config))
    if cache is not None:
        memories.append((cache, settings.cache.weight))
    return Mixture(memories), recorder


def open_memory(opened: OpenedModels, settings: NeighbourSettings) -> tuple[Memory, float | None]:
    """Returns the neighbours and their weight λ; None where each token has a λ of its own."""
    return _weighed(open_neighbours(opened, settings.knn, settings.dstore), opened, settings)


def _weighed(
    neighbours: NeighbourSource, opened: OpenedModels, settings: NeighbourSettings
) -> tuple[Memory, float | None]:
    if settings.weight.lmbda_model is None:
        return neighbours, settings.knn.lmbda
    return open_weighed(neighbours, settings.weight, opened.task.dictionary, opened.identity), None


def _mind_texts(neighbours: NeighbourSource, evaluation: Evaluation, settings: EvalSettings) -> None:
    """Has no token of an evaluation find the row that it is itself, or warns where it can; tells of other contexts."""
    task, subset = evaluation.task, settings.eval.gen_subset
    window, mode = settings.eval.context_window, evaluation.task_config.sample_break_mode
    cut = Cut.of({"context_window": window, "tokens_per_sample": evaluation.block_size, "sample_break_mode": mode})
    if cut is not None:
        tell_of_contexts([part.datastore for part in neighbours.parts], cut)
    prefix = task.split_prefix(subset)
    if settings.own_row.exclude_own_row:
        stores = [(part.datastore, part.offset) for part in neighbours.parts]
        neighbours.own_rows = find_own_rows(stores, evaluation.dataset, prefix, task.dictionary)
    elif not neighbours.config.drop_top1:
        neighbours.own_text = own_text([part.datastore for part in neighbours.parts], evaluation.dataset.sha256())
        if neighbours.own_text:
            logger.warning(own_text_warning(neighbours.own_text, str(prefix)))


def open_neighbours(opened: OpenedModels, knn: KNNConfig, dstore: DatastoreConfig) -> NeighbourSource:
    """Returns the datastores after checking that they belong to the model; k is at most the rows that they have.

    From then on, the model's context vectors are of the type of the datastores' keys.
    """
    import knnlm

    model = opened.models[0]
    asked = recorded_key_type(model, dstore.knn_keytype)
    use_keys(model, stored_key_type((prefix for prefix, _ in knn.stores), asked))
    found = knnlm.open_neighbours(knn, opened.identity, rows=dstore.dstore_size, key_fp16=dstore.dstore_fp16)
    rows = found.rows_left
    if 0 < rows < knn.k:
        logger.warning(
            "--k %d is more than the %d rows of %s, and counts as --k %d",
            knn.k,
            rows,
            knn.dstore_filename,
            rows,
        )
        found.config = dataclasses.replace(found.config, k=rows)
    return found
