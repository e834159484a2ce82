"""Neighbours with a weight λ for each token of an evaluation: ``--lmbda-model``, ``--skip-retrieval``.

    1. from what is known before the search: which searches to skip; λ = 0 there
    2. the search, for the others
    3. from the neighbours: p_kNN of the target, and λ, which the target has no part in

Legend: N queries · K neighbours · F features · V vocabulary.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float64s, Int64s
from fairseq.data.dictionary import Dictionary
from fairseq.evaluate.mixture import Counts, Memory, MemoryReport, MemoryScores, ScoredTokens
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.tally import tallied
from fairseq.knn.weight.config import LmbdaModelConfig
from fairseq.knn.weight.features import context_features, has_neighbours, neighbour_features
from fairseq.knn.weight.file import check_fits, read_model
from fairseq.knn.weight.model import LmbdaModel
from fairseq.knn.weight.tokens import measure_of
from fairseq.models.protocol import ModelIdentity
from fairseq.storage.files import file_sha256


class WeighedNeighbours(Memory):
    """Neighbours with a weight λ for each token, from what is known before the token is seen.

    Args:
        neighbours: one datastore or several.
        model: the fitted weight.
        counts_V: how often the dictionary counted each id.
        skip_share: share of the searches to skip.
        sha256: of the weight's file, as a result names it.

    Attributes:
        num_asked: targets so far.
        num_skipped: those without a search.
        search_s: seconds spent on searches and what follows from them.
    """

    needs_known = True

    def __init__(
        self,
        neighbours: NeighbourSource,
        model: LmbdaModel,
        counts_V: Int64s,
        skip_share: float = 0.0,
        sha256: str | None = None,
    ) -> None:
        self.sha256 = sha256
        self.neighbours, self.model, self.counts_V, self.skip_share = neighbours, model, counts_V, skip_share
        self.num_asked = self.num_skipped = 0
        self.search_s = 0.0

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        """Returns ln p_kNN and λ, float64; −inf and 0 where there was no search."""
        assert tokens.known is not None
        before_NF = context_features(tokens.known, self.counts_V)
        searched_N = ~self.model.skip.skipped(before_NF, self.skip_share)
        count, device = len(searched_N), tokens.query_ND.device
        self.num_asked += count
        self.num_skipped += int((~searched_N).sum())
        log_p_N, weight_N = np.full(count, -np.inf), np.zeros(count)
        if searched_N.any():
            start, rows = time.monotonic(), torch.from_numpy(searched_N).to(device)
            own_NS = self.neighbours.own_of(tokens)
            own_NS = own_NS[searched_N] if own_NS is not None else None
            found = self._searched(tokens.query_ND[rows], tokens.target_N[rows], before_NF[searched_N], own_NS)
            log_p_N[searched_N], weight_N[searched_N] = found
            self.search_s += time.monotonic() - start
        return MemoryScores(torch.from_numpy(log_p_N).to(device), torch.from_numpy(weight_N).to(device))

    def _searched(
        self, queries_ND: Tensor, target_N: Tensor, before_NF: Float64s, own_NS: Int64s | None
    ) -> tuple[Array, Array]:
        temperature = self.neighbours.temperature
        votes = self.neighbours.votes(queries_ND, target_N, own_NS)
        votes = votes.nearest_first(self.neighbours.tie_order)
        values_NK = self.neighbours.values_of(votes.ids_NK)
        after_NF = neighbour_features(votes.distances_NK, values_NK, temperature)
        weight_N = self.model.weights(np.concatenate([before_NF, after_NF], axis=1))
        log_p_N, tally = tallied(votes, temperature)
        self.neighbours.tally.add(tally)
        return log_p_N, np.where(has_neighbours(votes.distances_NK), weight_N, 0.0)

    def counts(self) -> Counts:
        """Returns the neighbours' counts, and how many searches were skipped."""
        return {**self.neighbours.counts(), "skipped": self.num_skipped}

    def set_counts(self, counts: Counts) -> None:
        """Takes those of all processes for its own; all searches take as long as those here, on average."""
        searched, skipped = self.num_asked - self.num_skipped, counts["skipped"]
        assert isinstance(skipped, int), skipped
        self.neighbours.set_counts(counts)
        self.num_skipped = skipped
        self.num_asked = self.neighbours.tally.searches + self.num_skipped
        self.search_s *= self.neighbours.tally.searches / max(searched, 1)

    def report(self) -> MemoryReport:
        """Returns what was skipped, and the time that it saved by the others' mean."""
        searched, skipped = self.num_asked - self.num_skipped, self.num_skipped
        summary = skipped_line(skipped, self.num_asked)
        if searched:
            saved_s = self.search_s / searched * skipped
            summary += f"; the others took {self.search_s:.1f}s, these would have taken about {saved_s:.1f}s"
        found = self.neighbours.report()
        return MemoryReport(
            identity={**found.identity, "lmbda_model_sha256": self.sha256},
            settings=found.settings,
            found={**found.found, "searches": searched, "searches_skipped": skipped},
            speed={"search_seconds": round(self.search_s, 3)},
            summary=[*found.summary, summary],
            warnings=found.warnings,
        )


def skipped_line(skipped: int, asked: int) -> str:
    """Returns how many searches were skipped, for people."""
    return f"Skipped {skipped} of {asked} searches ({skipped / max(asked, 1):.1%})"


def open_weighed(
    neighbours: NeighbourSource, config: LmbdaModelConfig, dictionary: Dictionary, identity: ModelIdentity
) -> WeighedNeighbours:
    """Returns neighbours with the weight that a file holds, after checking that it was fitted for them.

    Raises:
        DatastoreError: the file cannot be read.
        MismatchError: it was fitted for another model, datastore or other settings.
    """
    assert config.lmbda_model is not None
    path, knn = Path(config.lmbda_model), neighbours.config
    model = read_model(path)
    found = {
        "weights_sha256": identity.weights_sha256,
        "dictionary_sha256": identity.dictionary_sha256,
        "store_id": neighbours.identity()["store_id"],
        **measure_of(knn.knn_sim_func, knn.faiss_metric_type, knn.drop_top1),
    }
    k = model.k if min(model.k, neighbours.rows_left) == knn.k else knn.k  # more than there are find as many
    check_fits(model, path, found, k, neighbours.temperature, allow_mismatch=knn.allow_mismatch)
    counts_V = np.array(dictionary.counts, np.int64)
    return WeighedNeighbours(neighbours, model, counts_V, config.skip_retrieval, file_sha256(path))
