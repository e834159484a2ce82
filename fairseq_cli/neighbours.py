"""The neighbours of an evaluation: what they are, what weighs them, and what keeps them.

scorer ── recorder, keeps what goes by     --save-retrieval ──┐
   └───── weighed, a λ for each token      --lmbda-model ─────┴── neighbours
"""

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.mixture import Interpolation, WeighedInterpolation, share_of_rest
from fairseq.evaluate.sequence_scorer import ScoredBatch
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import DatastoreConfig
from fairseq.knn.retrieval.format import CACHE_COLUMN
from fairseq.knn.retrieval.recorder import RetrievalRecorder, open_recorder
from fairseq.knn.retrieval.results import check_results
from fairseq.knn.retrieval.retrieval import KNOWN_COLUMNS, known_arrays
from fairseq.knn.weight.apply import WeighedNeighbours, open_weighed
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.progress import at_work
from fairseq.tasks.opening import OpenedModels, identity_of

if TYPE_CHECKING:
    from fairseq.knn.neighbours.neighbour_source import NeighbourSource
    from fairseq_cli.eval_settings import Settings


@dataclass(frozen=True)
class SecondSource:
    """The neighbours of an evaluation; none of the parts is there where there are none.

    Attributes:
        neighbours: the datastore, or several.
        interpolation: what is mixed in, and its weight.
        recorder: keeps the neighbours, where that was asked for.
        weighed: gives each token its own weight, where that was asked for.
    """

    neighbours: "NeighbourSource | None" = None
    interpolation: Interpolation | WeighedInterpolation | None = None
    recorder: RetrievalRecorder | None = None
    weighed: WeighedNeighbours | None = None

    def keep(self, scored: ScoredBatch) -> None:
        """Writes what a retrieval keeps of a batch besides its neighbours, where there is one."""
        if self.recorder is None:
            return
        assert scored.known is not None
        cache = {} if scored.cache_log_p_NS is None else {CACHE_COLUMN: scored.cache_log_p_NS}
        self.recorder.add(scored, **known_arrays(scored.known), **cache)

    def finish(self) -> None:
        """Marks the retrieval as done, where there is one."""
        if self.recorder is not None:
            with at_work("checksums of the retrieval"):
                self.recorder.finish()

    def summary(self) -> str:
        """Returns what is to be told of the searches, a line or none."""
        return self.weighed.summary() + "\n" if self.weighed is not None else ""

    def record(self) -> dict[str, int]:
        """Returns what is to be recorded of the searches, the same for every repetition."""
        return self.weighed.record() if self.weighed is not None else {}

    def speed(self) -> dict[str, float]:
        """Returns how long the searches took, where that was measured."""
        return {"search_seconds": round(self.weighed.search_s, 3)} if self.weighed is not None else {}

    def identity(self) -> dict[str, Any]:
        """Returns the ids of all that the second source was made of."""
        source = self.weighed if self.weighed is not None else self.neighbours
        return source.identity() if source is not None else {}


def open_second_source(evaluation: Evaluation, settings: "Settings", stack: ExitStack) -> SecondSource:
    """Returns the neighbours as the flags want them; a recorder is closed with the stack."""
    source = open_mixture(evaluation, settings)
    if source.neighbours is None or source.weighed is not None or settings.retrieval.save_retrieval is None:
        return source
    check_results(Path(settings.retrieval.save_retrieval))
    cache = settings.cache if settings.has_cache else None
    recorder = open_recorder(
        source.neighbours, evaluation, settings.eval, settings.retrieval, KNOWN_COLUMNS, cache=cache
    )
    if recorder is None:
        return source
    recorder = stack.enter_context(recorder)
    return dataclasses.replace(
        source, interpolation=Interpolation(recorder, _fixed_weight(settings)), recorder=recorder
    )


def open_mixture(opened: Evaluation | OpenedModels, settings: "Settings") -> SecondSource:
    """Returns the neighbours and how they are weighed; none of them is kept.

    With a cache of weight μ a fixed λ becomes a share of the 1 − μ that the cache leaves; a fitted one is such a share.
    """
    if not settings.needs_neighbours:
        return SecondSource()
    model = identity_of(opened.models[0], opened.task.dictionary, opened.checkpoints[0])
    neighbours = open_neighbours(model, settings.knn, settings.dstore)
    if settings.weight.lmbda_model is not None:
        assert model.weights_sha256 is not None
        weighed = open_weighed(neighbours, settings.weight, opened.task.dictionary, model.weights_sha256)
        return SecondSource(neighbours, WeighedInterpolation(weighed), weighed=weighed)
    return SecondSource(neighbours, Interpolation(neighbours, _fixed_weight(settings)))


def _fixed_weight(settings: "Settings") -> float:
    return share_of_rest(settings.knn.lmbda, settings.cache.weight)


def open_neighbours(model: ModelIdentity, knn: KNNConfig, dstore: DatastoreConfig) -> "NeighbourSource":
    """Returns the datastores as a second source of probabilities, after checking that they belong to the model."""
    import knnlm

    model = dataclasses.replace(model, key_type=dstore.knn_keytype)
    return knnlm.open_neighbours(knn, model, rows=dstore.dstore_size, key_fp16=dstore.dstore_fp16)
