"""``fairseq-knnlm fit-lmbda``: fit, cross-validate, choose, write, and report.

The weight that is written is the kind whose held-out loss is least: fixed for all, by the nearest distance, or by every
feature. So on the held-out folds it is never worse than the best fixed λ; where nothing is better, it is the fixed λ.
Of several k and temperatures, those of the least held-out loss are taken, in the same way.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import UNSET

from fairseq.arrays import Bools, Float64s, Int64s
from fairseq.criterions.perplexity import perplexity_of
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.config import AUTO
from fairseq.knn.neighbours.parts import Values
from fairseq.knn.retrieval.own_text import warn_if_own_text
from fairseq.knn.retrieval.results import Kept, check_results, plain, text_record
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.retrieval.unit import has_unit, unit_of
from fairseq.knn.sweep.edges import search_edges
from fairseq.knn.weight.config import FitLmbdaConfig
from fairseq.knn.weight.features import BEFORE_SEARCH
from fairseq.knn.weight.file import check_fits
from fairseq.knn.weight.fit import Tokens, fit_buckets, fit_fixed, fit_network, fit_skip, folds_of
from fairseq.knn.weight.model import FixedWeight, LmbdaModel, Skip, Weights
from fairseq.knn.weight.offered import Offered, offered
from fairseq.knn.weight.tokens import identity_of, open_counts, open_values, read_tokens
from fairseq.runtime.progress import Progress
from fairseq.storage.files import locked
from fairseq.storage.marks import LMBDA_MODEL
from fairseq.storage.outputs import claim
from fairseq.storage.records import write_record

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
KINDS = {"fixed": "best fixed λ", "buckets": "λ by nearest distance", "network": "λ by token"}  # the simplest first
LABELS = {"lm": "language model", **KINDS}
Show = Callable[[str], None]


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of a text's targets.

    Attributes:
        log_p_N: from the language model, ``lm``, and from the mixture with each kind of weight.
        skipped_N: for each share, which searches are skipped.
    """

    log_p_N: dict[str, Float64s]
    skipped_N: dict[float, Bools]

    def perplexities(self) -> dict[str, float]:
        """Returns the perplexity of the language model, ``lm``, and of each kind of weight."""
        return {name: _perplexity(log_p_N) for name, log_p_N in self.log_p_N.items()}

    def lines(self, kind: str, fixed: Weights) -> Iterator[str]:
        """Yields a table: the perplexities, and those of the chosen kind when searches are skipped."""
        assert isinstance(fixed, FixedWeight)
        for name, perplexity in self.perplexities().items():
            label = f"{LABELS[name]} ({fixed.weight:.3f})" if name == "fixed" else LABELS[name]
            yield f"  {label:<30}{perplexity:10.2f}{'  chosen' if name == kind else ''}"
        yield f"  {LABELS[kind]}, with searches skipped:"
        for share, skipped_N in self.skipped_N.items():
            perplexity = _perplexity(np.where(skipped_N, self.log_p_N["lm"], self.log_p_N[kind]))
            yield f"    --skip-retrieval {share:<4g} skips {100 * skipped_N.mean():5.1f} %{perplexity:14.2f}"


def _perplexity(log_p_N: Float64s) -> float:
    return perplexity_of(-float(log_p_N.mean()) / np.log(2))


@dataclass(frozen=True)
class _Candidate:
    """One k and temperature, its tokens with their held-out scores, and the best kind of weight for them."""

    k: int
    temperature: float
    tokens: Tokens
    held_out: Scores
    kind: str


def run_fit(config: FitLmbdaConfig, seed: int, show: Show) -> Kept:
    """Fits a weight on a retrieval, writes it, shows what it gains, and returns what the results are to keep.

    Raises:
        ConfigError: flags that do not fit the retrieval.
        DatastoreError: a retrieval, datastore or file is not what it should be.
        MismatchError: they do not belong together.
    """
    out, retrieval = Path(config.out), Retrieval.open(config.directory)
    other = Retrieval.open(config.apply) if config.apply is not None else None
    for text in (retrieval, *([other] if other is not None else [])):
        warn_if_own_text(text)
    for k in config.k:
        retrieval.check_k(k)
    claim("--out", out, LMBDA_MODEL, overwrite=config.overwrite)  # after the inputs: their mistakes come first
    with locked(out):
        return _fit(config, retrieval, other, out, seed, show)


def _fit(
    config: FitLmbdaConfig, retrieval: Retrieval, other: Retrieval | None, out: Path, seed: int, show: Show
) -> Kept:
    allow = config.allow_mismatch
    check_results(retrieval.directory)
    values = open_values(retrieval, config.dstore_filename, allow_mismatch=allow)
    counts_V = open_counts(retrieval, config.dictionary, allow_mismatch=allow)
    tried = offered(config, retrieval)
    candidates = _candidates(config, tried, retrieval, values, counts_V, seed, show)
    best = max(candidates, key=lambda one: float(one.held_out.log_p_N[one.kind].sum()))
    k, temperature, tokens, held_out, kind = best.k, best.temperature, best.tokens, best.held_out, best.kind
    weights = fit_all(tokens, seed)
    skip = fit_skip(tokens, held_out.log_p_N[kind], seed)
    finite = {name: value for name, value in held_out.perplexities().items() if np.isfinite(value)}
    model = LmbdaModel(
        weights=weights[kind],
        skip=skip,
        k=k,
        knn_temp=temperature,
        knn_temp_asked=AUTO if tried.is_auto else UNSET,
        distance_unit=unit_of(retrieval) if tried.is_auto and has_unit(retrieval) else UNSET,
        fitted_for=identity_of(retrieval),
        held_out=finite,
    )
    source = f" ({tried.words})" if tried.words else ""
    show(f"{len(tokens)} tokens of {retrieval.manifest.split}, {k} neighbours, temperature {temperature:g}{source}")
    edges = search_edges(k, temperature, tried.ks, tried.temperatures, retrieval.k, retrieval.rows)
    for line in edges if tried.edges is None else tried.edges:
        show(line)
    show(f"\nPerplexity on {config.folds} held-out folds of consecutive blocks")
    show("\n".join(held_out.lines(kind, weights["fixed"])))
    applied_to = None
    if other is not None:
        check_fits(model, out, identity_of(other), k, temperature, allow_mismatch=allow)
        tokens = read_tokens(other, values, counts_V, k, temperature)
        show(f"\nPerplexity on {len(tokens)} tokens of {other.manifest.split}")
        applied = scores_of(tokens, weights, skip)
        show("\n".join(applied.lines(kind, weights["fixed"])))
        applied_to = {**text_record(other), "ppl": _labelled(applied)}
    write_record(out, model)
    reason = "" if kind != "fixed" else ": no other gains on held-out folds"
    show(f"\nWrote {out}: {LABELS[kind]}{reason}")
    found = {
        "file": str(out),
        "chosen": LABELS[kind],
        "k": k,
        "knn_temp": temperature,
        "fitted_on": {**text_record(retrieval), "folds": config.folds, "ppl": _labelled(held_out)},
        "applied_to": applied_to,
    }
    return Kept(retrieval.directory, "lmbda", plain(found))


def _labelled(scores: Scores) -> dict[str, float]:
    """Returns perplexities by the label that the page has for each weight."""
    return {LABELS[name]: value for name, value in scores.perplexities().items()}


def _candidates(
    config: FitLmbdaConfig,
    tried: Offered,
    retrieval: Retrieval,
    values: Values,
    counts_V: Int64s,
    seed: int,
    show: Show,
) -> Iterator[_Candidate]:
    """Yields every k and temperature with its held-out scores."""
    for k, temperature in itertools.product(tried.ks, tried.temperatures):
        tokens = read_tokens(retrieval, values, counts_V, k, temperature)
        if not len(tokens.usable):
            raise DatastoreError(f"{retrieval.directory} has no token with a neighbour: there is nothing to fit")
        num_blocks = 1 + int((np.diff(tokens.block_N) != 0).sum())
        if num_blocks < config.folds:
            raise ConfigError(
                f"--folds {config.folds} is more than the {num_blocks} blocks of {retrieval.directory}; give fewer, or"
                " a longer text"
            )
        held_out = cross_validate(tokens, config.folds, seed)
        kind = best_kind(held_out)
        if len(tried.ks) * len(tried.temperatures) > 1:
            perplexity = held_out.perplexities()[kind]
            show(f"--k {k:<6} --knn-temp {temperature:<8g}held out, {LABELS[kind]:<30}{perplexity:10.2f}")
        yield _Candidate(k, temperature, tokens, held_out, kind)


def fit_all(tokens: Tokens, seed: int) -> dict[str, Weights]:
    """Returns every kind of weight, fitted."""
    return {"fixed": fit_fixed(tokens), "buckets": fit_buckets(tokens), "network": fit_network(tokens, seed)}


def best_kind(scores: Scores) -> str:
    """Returns the kind of the least loss; the simplest of equal ones."""
    return max(KINDS, key=lambda kind: float(scores.log_p_N[kind].sum()))


def cross_validate(tokens: Tokens, num_folds: int, seed: int) -> Scores:
    """Returns the scores of each token under weights that were fitted on the other folds."""
    fold_N = folds_of(tokens.block_N, num_folds)
    # Nothing can be learned for a block as long as a fold, or where no other fold has neighbours.
    scores = Scores(
        {name: tokens.log_p_lm_N.copy() for name in LABELS},
        {share: np.ones(len(tokens), bool) for share in SHARES},
    )
    with Progress("cross-validate", num_folds, "folds") as progress:
        for fold in range(num_folds):
            held_N = fold_N == fold
            fitted, held = tokens.some(~held_N), tokens.some(held_N)
            if len(fitted.usable) and len(held):
                weights = fit_all(fitted, seed)
                skip = fit_skip(fitted, fitted.log_prob(weights["network"]), seed)
                of_fold = scores_of(held, weights, skip)
                for name, log_p_N in of_fold.log_p_N.items():
                    scores.log_p_N[name][held_N] = log_p_N
                for share, skipped_N in of_fold.skipped_N.items():
                    scores.skipped_N[share][held_N] = skipped_N
            progress.advance(1)
    return scores


def scores_of(tokens: Tokens, weights: dict[str, Weights], skip: Skip) -> Scores:
    """Returns the scores of a text's tokens under fitted weights."""
    before_NF = tokens.features_NF[:, : len(BEFORE_SEARCH)]
    return Scores(
        {"lm": tokens.log_p_lm_N, **{kind: tokens.log_prob(weight) for kind, weight in weights.items()}},
        {share: skip.skipped(before_NF, share) for share in SHARES},
    )
