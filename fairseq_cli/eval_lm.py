"""``fairseq-eval-lm``: the perplexity of a text, with neighbours or without; or the datastore of a text."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fairseq.cache_config import CacheConfig
from fairseq.config import Flags, as_dict, flag_name, resolve
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import ConfigError
from fairseq.files import locked, write_json
from fairseq.given_files import require_inputs
from fairseq.knn.config import DatastoreConfig, DumpConfig, KNNConfig, RetrievalConfig
from fairseq.knn.lmbda_config import LmbdaModelConfig
from fairseq.log import log_format_of, logger
from fairseq.options import parse
from fairseq.resources import keep_freed_memory
from fairseq.run_config import CommonConfig, DeviceConfig, EvalConfig
from fairseq.tasks import TASKS
from fairseq_cli.run import run

if TYPE_CHECKING:
    from fairseq.evaluation import Evaluation, EvaluationResult
    from fairseq.sequence_scorer import ScoredBatch
    from fairseq.word_scores import WordJoiner, WordStats
    from fairseq_cli.second_source import SecondSource

T = TypeVar("T")
DESCRIPTION = """Evaluate a language model on a split of binarised data; with --knnlm, mixed with the votes of
neighbours from a datastore; with --cache-size, of the text's own last words; with --save-knnlm-dstore, write the
split's datastore instead."""


class Settings:
    """Every config of one run of the command."""

    def __init__(self, flags: Flags) -> None:
        self.common = flags.build(CommonConfig)
        self.eval = flags.build(EvalConfig)
        self.device = flags.build(DeviceConfig)
        self.knn = _built_if(flags, KNNConfig, "knnlm")
        self.weight = _built_if(flags, LmbdaModelConfig, "lmbda_model")
        self.retrieval = _built_if(flags, RetrievalConfig, "save_retrieval")
        self.dump = _built_if(flags, DumpConfig, "save_knnlm_dstore")
        self.dstore = _built_if(flags, DatastoreConfig, "knnlm", "save_knnlm_dstore")
        self.cache = _built_if(flags, CacheConfig, "cache_size")
        # A line of progress every few seconds, unless batches were asked for.
        self.log_every = self.common.log_interval if "log_interval" in flags.typed else None
        if self.dump.save_knnlm_dstore:
            for name in ("results_path", "output_word_probs", "output_word_stats", "remove_bpe", "cache_size"):
                if name in flags.typed:
                    logger.warning("%s has no effect: --save-knnlm-dstore scores nothing", flag_name(name))
        saving = self.retrieval.save_retrieval is not None
        if saving and not self.knn.knnlm:
            raise ConfigError("--save-retrieval keeps neighbours, but there are none; give --knnlm and its datastore")
        if saving and self.eval.num_shards > 1:
            raise ConfigError("--save-retrieval keeps a whole split and cannot be sharded; leave --num-shards out")
        self._check_lmbda_model(flags)
        if self.knn.knnlm and not self.needs_neighbours:
            logger.warning(
                "--knnlm has no effect with --lmbda 0: neighbours have no weight; give --lmbda, such as 0.25"
            )
        several = ":" in (self.eval.path or "")
        if several and (self.knn.knnlm or self.dump.save_knnlm_dstore):
            raise ConfigError("--path names several checkpoints, but a datastore belongs to one; give one")
        if self.knn.knnlm and self.dump.save_knnlm_dstore:
            raise ConfigError("--knnlm and --save-knnlm-dstore exclude each other; write the datastore first")
        if self.dump.save_knnlm_dstore and self.eval.num_shards > 1:
            raise ConfigError("--save-knnlm-dstore writes rows in order and cannot be sharded; leave --num-shards out")
        self.cache.check(
            num_models=2 if several else 1, num_shards=self.eval.num_shards,
            lmbda=self.knn.lmbda if self.knn.knnlm else None,
            prints_words=self.eval.output_word_probs or self.eval.output_word_stats, saves=saving,
        )  # fmt: skip

    @property
    def has_cache(self) -> bool:
        """Whether caches are computed, to be mixed in or to be kept."""
        return self.cache.is_on or (bool(self.cache.cache_size) and self.retrieval.save_retrieval is not None)

    @property
    def needs_neighbours(self) -> bool:
        """Whether neighbours are searched for."""
        saving = self.retrieval.save_retrieval is not None
        return self.knn.knnlm and (self.knn.lmbda > 0 or saving or self.weight.lmbda_model is not None)

    def _check_lmbda_model(self, flags: Flags) -> None:
        if self.weight.lmbda_model is None:
            return
        if not self.knn.knnlm:
            raise ConfigError("--lmbda-model weighs neighbours, but there are none; give --knnlm and its datastore")
        if "lmbda" in flags.typed:
            raise ConfigError("--lmbda and --lmbda-model exclude each other: the model gives each token its own λ")
        if self.cache.is_sweep:
            raise ConfigError("--lmbda-model takes one cache setting, but lists were given; give one value of each")
        if self.retrieval.save_retrieval is not None:
            raise ConfigError(
                "--save-retrieval and --lmbda-model exclude each other; fairseq-knnlm fit-lmbda --apply weighs what was"
                " saved"
            )

    def record(self, task_config: Any) -> dict[str, Any]:
        """Returns every setting in force, flat."""
        knn = (self.knn, self.weight, self.dstore) if self.knn.knnlm else ()
        cache = (self.cache,) if self.has_cache else ()
        return as_dict(self.common, self.device, self.eval, *knn, *cache, task_config)


def _built_if(flags: Flags, config: type[T], *switches: str) -> T:
    """Returns the config; its flags count as used, and are not warned of, only with one of the switches."""
    used = any(flags.typed.get(switch) for switch in switches)
    return flags.build(config) if used else resolve(config, flags.typed)


def main(argv: Sequence[str]) -> None:
    """Evaluates, or writes a datastore."""
    groups = (EvalConfig, *TASKS.configs(), KNNConfig, LmbdaModelConfig, RetrievalConfig, CacheConfig, DumpConfig)
    groups += (DatastoreConfig, DeviceConfig, CommonConfig)
    flags = parse("fairseq-eval-lm", DESCRIPTION, groups, argv)
    settings = Settings(flags)
    if TASKS.config(settings.eval.task) is LanguageModelingConfig:
        data = flags.typed.get("data", LanguageModelingConfig.data)
        require_inputs(settings.eval.path or "", data, settings.eval.gen_subset)

    import torch

    from fairseq.evaluation import prepare
    from fairseq.precision import Precision, select_device
    from fairseq_cli.second_source import open_second_source

    torch.manual_seed(settings.common.seed)
    precision = Precision(settings.device, select_device(settings.device))
    if precision.device.type == "cpu":
        keep_freed_memory()
    evaluation = prepare(flags, settings.eval, precision, stream_order=settings.has_cache)
    flags.warn_unused()
    if settings.dump.save_knnlm_dstore:
        from fairseq.knn.dump import dump_datastore

        dump_datastore(evaluation, settings.eval, settings.dump, settings.dstore, log_format_of(settings.common))
        return
    with ExitStack() as stack:
        results = settings.eval.results_file
        if results is not None and stack.enter_context(locked(results)):  # an impossible place fails at once
            logger.info("an earlier run of %s was stopped; evaluating from the beginning", results)
        source = open_second_source(evaluation, settings, stack)
        result = evaluate(evaluation, settings, source)
        report(result, evaluation, settings, source, argv)


def evaluate(evaluation: "Evaluation", settings: Settings, source: "SecondSource") -> "EvaluationResult":
    """Returns the perplexity of the split; on the way it prints words and keeps neighbours where that was asked for."""
    from fairseq.cache_sweep import CacheSweep, make_cache
    from fairseq.evaluation import EvaluationResult, Stopwatch, score_all
    from fairseq.perplexity import Perplexity
    from fairseq.sequence_scorer import SequenceScorer
    from fairseq.word_scores import WordJoiner, WordStats

    config = settings.eval
    size, width = len(evaluation.dataset.tokens), evaluation.models[0].key_dimension
    cache = make_cache(settings.cache, size, width) if settings.has_cache else None
    sweep = CacheSweep(settings.cache) if settings.cache.is_sweep and not settings.knn.knnlm else None
    scorer = SequenceScorer(
        evaluation.models, evaluation.precision, config.softmax_batch, source.interpolation, cache,
        keep_known=source.recorder is not None,
    )  # fmt: skip
    joiner = WordJoiner(evaluation.task.dictionary.symbols, config.remove_bpe)
    stats = WordStats()
    perplexity = Perplexity()
    stopwatch = Stopwatch()
    for scored in score_all(evaluation, scorer, perplexity, log_format_of(settings.common), settings.log_every):
        num_joined = joiner.num_joined(scored.target_N, scored.block_idx_N)
        perplexity.add(scored.log_p_N, scored.target_N, num_joined)
        if sweep is not None:
            sweep.add(scored, num_joined)
        source.keep(scored)
        if config.output_word_probs or config.output_word_stats:
            output_words(scored, joiner, stats, print_words=config.output_word_probs)
    if sweep is not None:
        sys.stdout.write(sweep.table())
    best, rows = (sweep.best(), sweep.rows()) if sweep is not None else (perplexity, None)
    result = EvaluationResult(best, evaluation.num_left_out, stopwatch.elapsed_s, rows)
    source.finish(log_format_of(settings.common))
    if config.output_word_stats:
        sys.stdout.writelines(line + "\n" for line in stats.lines())
    return result


def output_words(scored: "ScoredBatch", joiner: "WordJoiner", stats: "WordStats", *, print_words: bool) -> None:
    """Counts the words of a batch, and prints each block's on a line: ``block word [log p] …``."""
    for block_idx, rows in _blocks(scored):
        words = list(joiner.words(scored.target_N[rows], scored.log_p_N[rows]))
        stats.add(words)
        if print_words:
            sys.stdout.write(f"{block_idx} " + "\t".join(f"{w.text} [{w.log_p:.6f}]" for w in words) + "\n")


def _blocks(scored: "ScoredBatch") -> Iterator[tuple[int, slice]]:
    import numpy as np

    cuts = np.flatnonzero(np.diff(scored.block_idx_N)) + 1
    for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(scored.block_idx_N)], strict=True):
        yield int(scored.block_idx_N[start]), slice(start, end)


def report(
    result: "EvaluationResult",
    evaluation: "Evaluation",
    settings: Settings,
    source: "SecondSource",
    argv: Sequence[str],
) -> None:
    """Prints the result, warns of what it hides, and writes it as JSON where that was asked for."""
    from fairseq.evaluation import versions

    symbols = evaluation.task.dictionary.symbols
    for what, ids in (("probability 0", result.perplexity.zero_ids), ("no number", result.perplexity.nan_ids)):
        if ids:
            shown = ", ".join(f"{symbols[token]} ({count})" for token, count in list(ids.items())[:5])
            logger.warning("%d targets have %s as their probability: %s", sum(ids.values()), what, shown)
    sys.stdout.write(result.summary + "\n")
    if evaluation.precision.name != "float32":
        sys.stdout.write(f"Computed in {evaluation.precision.name}\n")
    sys.stdout.write(source.summary())
    sys.stdout.flush()
    record = {
        **result.record(symbols),
        **source.record(),
        "dtype": evaluation.precision.name,
        "device": str(evaluation.precision.device),
        "inputs": {**evaluation.identity(), **source.identity()},
        "versions": versions(),
        "settings": settings.record(evaluation.task_config),
    }
    command, speed = ["fairseq-eval-lm", *argv], {**result.speed(), **source.speed()}
    path = settings.eval.results_file
    if path is not None:
        write_json(path, {**record, "command": command})
        write_json(path.with_suffix(".time.json"), speed)
    if settings.retrieval.save_retrieval is not None:
        keep_evaluation(Path(settings.retrieval.save_retrieval), record, command, speed)


def keep_evaluation(directory: Path, record: dict[str, Any], command: list[str], speed: dict[str, float]) -> None:
    """Puts the result into those of the saved retrieval."""
    from fairseq.knn.results import Kept, keep
    from fairseq.knn.retrieval_format import read_record
    from fairseq.knn.sweep_output import plain

    manifest = read_record(directory)
    found = {"split": manifest["split"], "lm": manifest["lm"], **record}
    keep(Kept(directory, "evaluation", plain(found)), command, speed)


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-eval-lm", main))


if __name__ == "__main__":
    cli_main()
