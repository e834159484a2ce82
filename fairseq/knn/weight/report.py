"""``fairseq-knnlm fit-lmbda``: fit, cross-validate, choose, write, and report.

The weight that is written is the kind whose held-out loss is least: fixed for all, by the nearest distance, or by every
feature. So on the held-out folds it is never worse than the best fixed λ; where nothing is better, it is the fixed λ.
Of several k and temperatures, those of the least held-out loss are taken, in the same way.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Bools, Float64s, Int64s
from fairseq.criterions.perplexity import perplexity_of
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.neighbours.several_stores import Values
from fairseq.knn.retrieval.results import Kept, check_results, plain, text_record
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.weight.config import FitLmbdaConfig
from fairseq.knn.weight.features import BEFORE_SEARCH
from fairseq.knn.weight.file import check_fits, write_model
from fairseq.knn.weight.fit import Tokens, fit_buckets, fit_fixed, fit_network, fit_skip, folds_of
from fairseq.knn.weight.model import BucketWeights, FixedWeight, LmbdaModel, NetworkWeights, Skip
from fairseq.knn.weight.tokens import check_k, identity_of, open_counts, open_values, read_tokens
from fairseq.runtime.files import locked
from fairseq.runtime.progress import Progress

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WORDS = {"fixed": "best fixed λ", "buckets": "λ by nearest distance", "network": "λ by token"}
Fitted = dict[str, FixedWeight | BucketWeights | NetworkWeights]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """What a text's targets got.

    Attributes:
        log_p_lm_N: from the language model.
        log_p_N: from the mixture, for each kind of weight.
        skipped_N: for each share, which searches are skipped.
    """

    log_p_lm_N: Float64s
    log_p_N: dict[str, Float64s]
    skipped_N: dict[float, Bools]

    def perplexities(self) -> dict[str, float]:
        """Returns the perplexity of the language model, ``lm``, and of each kind of weight."""
        return {name: _perplexity(log_p_N) for name, log_p_N in {"lm": self.log_p_lm_N, **self.log_p_N}.items()}

    def curve(self, kind: str) -> list[tuple[float, float, float]]:
        """Returns for each share: the share, what of the searches is skipped, and the perplexity that is left."""
        log_ps = {s: np.where(skip_N, self.log_p_lm_N, self.log_p_N[kind]) for s, skip_N in self.skipped_N.items()}
        return [(s, float(self.skipped_N[s].mean()), _perplexity(log_p_N)) for s, log_p_N in log_ps.items()]


def run_fit(config: FitLmbdaConfig, seed: int, say: Say) -> Kept:
    """Fits a weight on a retrieval, writes it, reports what it is worth, and returns what the results are to keep.

    Raises:
        ConfigError: flags that do not fit the retrieval.
        DatastoreError: a retrieval, datastore or file is not what it should be.
        MismatchError: they do not belong together.
    """
    assert config.out is not None
    out = Path(config.out)
    with locked(out):  # an impossible place fails at once
        if out.exists() and not config.overwrite:
            raise DatastoreError(f"{out} exists; give another file, or --overwrite")
        return _run_fit(config, out, seed, say)


def _run_fit(config: FitLmbdaConfig, out: Path, seed: int, say: Say) -> Kept:
    allow = config.allow_mismatch
    retrieval = Retrieval.open(config.directory)
    check_results(retrieval.directory)
    other = Retrieval.open(config.apply) if config.apply is not None else None
    values = open_values(retrieval, config.dstore_filename, allow_mismatch=allow)
    counts_V = open_counts(retrieval, config.dictionary, allow_mismatch=allow)
    ks = tuple(dict.fromkeys(config.k)) or (retrieval.k,)
    temperatures = tuple(dict.fromkeys(config.knn_temp)) or (float(retrieval.manifest["knn_temp"]),)
    check_k(retrieval, max(ks))
    best: _Tried | None = None
    for k, temperature in itertools.product(ks, temperatures):
        tokens = read_tokens(retrieval, values, counts_V, k, temperature)
        _check_tokens(tokens, retrieval, config.folds)
        judged = cross_validate(tokens, config.folds, seed)
        tried = _Tried(k, temperature, tokens, judged, best_kind(judged))
        if len(ks) * len(temperatures) > 1:
            words = f"{WORDS[tried.kind]:<30}{judged.perplexities()[tried.kind]:10.2f}"
            say(f"--k {k:<6} --knn-temp {temperature:<8g}held out, {words}")
        best = tried if best is None or tried.log_p_sum > best.log_p_sum else best
    assert best is not None
    k, temperature, tokens, judged, kind = best.k, best.temperature, best.tokens, best.judged, best.kind
    weights = fit_all(tokens, seed)
    skip = fit_skip(tokens, gain_of(judged.log_p_N[kind], judged.log_p_lm_N), seed)
    held_out = {name: value for name, value in judged.perplexities().items() if np.isfinite(value)}
    model = LmbdaModel(weights[kind], skip, k, temperature, identity_of(retrieval), held_out)
    say(f"{len(tokens)} tokens of {retrieval.manifest['split']}, {k} neighbours, temperature {temperature:g}")
    say(f"\nPerplexity on {config.folds} held-out folds of consecutive blocks")
    _say_table(judged, kind, weights, say)
    applied = None
    if other is not None:
        applied = _say_applied(model, weights, kind, other, config, (values, counts_V), say)
    write_model(out, model)
    reason = "" if kind != "fixed" else ": no other gains on held-out folds"
    say(f"\nWrote {out}: {WORDS[kind]}{reason}")
    found = {
        "file": str(out),
        "chosen": WORDS[kind],
        "k": k,
        "knn_temp": temperature,
        "fitted_on": {**text_record(retrieval), "folds": config.folds, "ppl": _by_words(judged)},
        "applied_to": None if other is None or applied is None else {**text_record(other), "ppl": _by_words(applied)},
    }
    return Kept(retrieval.directory, "lmbda", plain(found))


def _by_words(judged: Judged) -> dict[str, float]:
    """Returns perplexities by what the page calls each weight."""
    return {WORDS.get(name, "language model"): value for name, value in judged.perplexities().items()}


@dataclass(frozen=True)
class _Tried:
    """One k and temperature, what they make of the tokens, and the best kind of weight for them."""

    k: int
    temperature: float
    tokens: Tokens
    judged: Judged
    kind: str

    @property
    def log_p_sum(self) -> float:
        """Σ ln p on held-out folds."""
        return float(self.judged.log_p_N[self.kind].sum())


def _check_tokens(tokens: Tokens, retrieval: Retrieval, num_folds: int) -> None:
    if not len(tokens.usable):
        raise DatastoreError(f"{retrieval.directory} has no token with a neighbour: there is nothing to fit")
    num_blocks = 1 + int((np.diff(tokens.block_N) != 0).sum())
    if num_blocks < num_folds:
        raise ConfigError(
            f"--folds {num_folds} is more than the {num_blocks} blocks of {retrieval.directory}; give fewer, or a"
            " longer text"
        )


def fit_all(tokens: Tokens, seed: int) -> Fitted:
    """Returns every kind of weight, fitted."""
    return {"fixed": fit_fixed(tokens), "buckets": fit_buckets(tokens), "network": fit_network(tokens, seed)}


def best_kind(judged: Judged) -> str:
    """Returns the kind of the least held-out loss; the simplest of equal ones."""
    sums = {kind: float(log_p_N.sum()) for kind, log_p_N in judged.log_p_N.items()}
    best = "fixed"
    for kind in ("buckets", "network"):
        if sums[kind] > sums[best]:
            best = kind
    return best


def cross_validate(tokens: Tokens, num_folds: int, seed: int) -> Judged:
    """Returns what each token got from weights that were fitted on the other folds."""
    fold_N = folds_of(tokens.block_N, num_folds)
    log_p_N = {kind: np.empty(len(tokens)) for kind in WORDS}
    skipped_N = {share: np.empty(len(tokens), bool) for share in SHARES}
    with Progress("cross-validate", num_folds, "folds") as progress:
        for fold in range(num_folds):
            held_N = fold_N == fold
            fitted, held = tokens.some(~held_N), tokens.some(held_N)
            if len(fitted.usable) and len(held):
                weights = fit_all(fitted, seed)
                skip = fit_skip(fitted, gain_of(fitted.log_prob(weights["network"]), fitted.log_p_lm_N), seed)
                judged = judge(held, weights, skip)
            else:  # a block as long as a fold, or neighbours in this one only: nothing can be learned
                judged = Judged(held.log_p_lm_N, dict.fromkeys(WORDS, held.log_p_lm_N), {})
            for kind in WORDS:
                log_p_N[kind][held_N] = judged.log_p_N[kind]
            for share in SHARES:
                skipped_N[share][held_N] = judged.skipped_N.get(share, np.ones(len(held), bool))
            progress.advance(1)
    return Judged(tokens.log_p_lm_N, log_p_N, skipped_N)


def gain_of(log_p_N: Float64s, log_p_lm_N: Float64s) -> Float64s:
    """Returns what neighbours have gained for each target, nats; no number where both say that it cannot be."""
    with np.errstate(invalid="ignore"):
        gain_N: Float64s = log_p_N - log_p_lm_N
    return gain_N


def judge(tokens: Tokens, weights: Fitted, skip: Skip) -> Judged:
    """Returns what a text's tokens get from fitted weights."""
    before_NF = tokens.features_NF[:, : len(BEFORE_SEARCH)]
    return Judged(
        tokens.log_p_lm_N,
        {kind: tokens.log_prob(weight) for kind, weight in weights.items()},
        {share: skip.skipped(before_NF, share) for share in SHARES},
    )


def _say_applied(
    model: LmbdaModel,
    weights: Fitted,
    kind: str,
    other: Retrieval,
    config: FitLmbdaConfig,
    values_and_counts: tuple[Values, Int64s],
    say: Say,
) -> Judged:
    """Reports and returns what fitted weights are worth on another text."""
    assert config.out is not None and config.apply is not None
    temperature = model.temperature
    check_fits(model, Path(config.out), identity_of(other), model.k, temperature, allow_mismatch=config.allow_mismatch)
    tokens = read_tokens(other, *values_and_counts, model.k, temperature)
    say(f"\nPerplexity on {len(tokens)} tokens of {other.manifest['split']}")
    judged = judge(tokens, weights, model.skip)
    _say_table(judged, kind, weights, say)
    return judged


def _say_table(judged: Judged, kind: str, weights: Fitted, say: Say) -> None:
    """Prints the perplexity of each kind of weight, and what is left of the chosen one when searches are skipped."""
    fixed = weights["fixed"]
    assert isinstance(fixed, FixedWeight)
    perplexities = judged.perplexities()
    say(f"  {'language model':<30}{perplexities['lm']:10.2f}")
    for name, words in WORDS.items():
        words += f" ({fixed.weight:.3f})" if name == "fixed" else ""
        say(f"  {words:<30}{perplexities[name]:10.2f}{'  chosen' if name == kind else ''}")
    say(f"  {WORDS[kind]}, with searches skipped:")
    for share, skipped, perplexity in judged.curve(kind):
        say(f"    --skip-retrieval {share:<4g} skips {100 * skipped:5.1f} %{perplexity:14.2f}")


def _perplexity(log_p_N: Float64s) -> float:
    return perplexity_of(-float(log_p_N.mean()) / np.log(2))
