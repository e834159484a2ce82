"""``fairseq-eval-lm``: the perplexity of a text, with neighbours or without; or the datastore of a text."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from fairseq.config import Flags, as_dict, flag_name, resolve
from fairseq.errors import ConfigError
from fairseq.files import locked, write_json
from fairseq.knn.config import DatastoreConfig, DumpConfig, KNNConfig, RetrievalConfig
from fairseq.knn.lmbda_config import LmbdaModelConfig
from fairseq.log import log_format_of, logger
from fairseq.options import parse
from fairseq.run_config import CommonConfig, DeviceConfig, EvalConfig
from fairseq.tasks import TASKS
from fairseq_cli.run import run

if TYPE_CHECKING:
    from fairseq.evaluation import Evaluation, EvaluationResult
    from fairseq.knn.recorder import RetrievalRecorder
    from fairseq.knn.weighing import WeighedNeighbours
    from fairseq.sequence_scorer import ScoredBatch
    from fairseq.word_scores import WordJoiner, WordStats
    from knnlm import KNN_Dstore

    Source = KNN_Dstore | RetrievalRecorder | WeighedNeighbours

T = TypeVar("T")
DESCRIPTION = """Evaluate a language model on a split of binarised data; with --knnlm, mixed with the votes of
neighbours from a datastore; with --save-knnlm-dstore, write the split's datastore instead."""


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
        # A line of progress every few seconds, unless batches were asked for.
        self.log_every = self.common.log_interval if "log_interval" in flags.typed else None
        if self.dump.save_knnlm_dstore:
            for name in ("results_path", "output_word_probs", "output_word_stats", "remove_bpe"):
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
        if self.retrieval.save_retrieval is not None:
            raise ConfigError(
                "--save-retrieval and --lmbda-model exclude each other; fairseq-knnlm fit-lmbda --apply weighs what was"
                " saved"
            )

    def record(self, task_config: Any) -> dict[str, Any]:
        """Returns every setting in force, flat."""
        knn = (self.knn, self.weight, self.dstore) if self.knn.knnlm else ()
        return as_dict(self.common, self.device, self.eval, *knn, task_config)


def _built_if(flags: Flags, config: type[T], *switches: str) -> T:
    """Returns the config; its flags count as used, and are not warned of, only with one of the switches."""
    used = any(flags.typed.get(switch) for switch in switches)
    return flags.build(config) if used else resolve(config, flags.typed)


def main(argv: Sequence[str]) -> None:
    """Evaluates, or writes a datastore."""
    groups = (EvalConfig, *TASKS.configs(), KNNConfig, LmbdaModelConfig, RetrievalConfig, DumpConfig, DatastoreConfig)
    groups += (DeviceConfig, CommonConfig)
    flags = parse("fairseq-eval-lm", DESCRIPTION, groups, argv)
    settings = Settings(flags)

    import torch

    from fairseq.evaluation import prepare
    from fairseq.precision import Precision, select_device

    torch.manual_seed(settings.common.seed)
    precision = Precision(settings.device, select_device(settings.device))
    evaluation = prepare(flags, settings.eval, precision)
    flags.warn_unused()
    if settings.dump.save_knnlm_dstore:
        from fairseq.knn.dump import dump_datastore

        dump_datastore(evaluation, settings.eval, settings.dump, settings.dstore, log_format_of(settings.common))
        return
    with ExitStack() as stack:
        results = settings.eval.results_file
        if results is not None and stack.enter_context(locked(results)):  # an impossible place fails at once
            logger.info("an earlier run of %s was stopped; evaluating from the beginning", results)
        neighbours = open_neighbours(evaluation, settings) if settings.needs_neighbours else None
        recorder = open_recorder(neighbours, evaluation, settings, stack)
        weighed = open_weighed(neighbours, evaluation, settings)
        result = evaluate(evaluation, settings, weighed or recorder or neighbours)
        report(result, evaluation, settings, weighed or neighbours, argv)


def open_recorder(
    neighbours: "KNN_Dstore | None", evaluation: "Evaluation", settings: Settings, stack: ExitStack
) -> "RetrievalRecorder | None":
    """Returns what keeps the neighbours of the evaluation, where that was asked for; closed with the stack."""
    if neighbours is None or settings.retrieval.save_retrieval is None:
        return None
    from fairseq.knn.known import KNOWN_COLUMNS
    from fairseq.knn.recorder import open_recorder as opened

    recorder = opened(neighbours, evaluation, settings.eval, settings.retrieval, KNOWN_COLUMNS)
    return stack.enter_context(recorder) if recorder is not None else None


def open_weighed(
    neighbours: "KNN_Dstore | None", evaluation: "Evaluation", settings: Settings
) -> "WeighedNeighbours | None":
    """Returns the neighbours with a weight of each token's own, where that was asked for."""
    if neighbours is None or settings.weight.lmbda_model is None:
        return None
    from fairseq.checkpoints import weights_sha256
    from fairseq.knn.weighing import open_weighed as opened

    return opened(
        neighbours, settings.weight, evaluation.task.dictionary, weights_sha256(evaluation.checkpoints[0].state)
    )


def open_neighbours(evaluation: "Evaluation", settings: Settings) -> "KNN_Dstore":
    """Returns the datastore as a second source of probabilities, after checking that it belongs to the model."""
    from fairseq.checkpoints import weights_sha256
    from knnlm import KNN_Dstore

    assert settings.knn.dstore_filename is not None and settings.knn.indexfile is not None
    return KNN_Dstore.open(
        settings.knn.dstore_filename,
        settings.knn.indexfile,
        settings.knn,
        rows=settings.dstore.dstore_size,
        key_fp16=settings.dstore.dstore_fp16,
        key_type=settings.dstore.knn_keytype,
        dimension=evaluation.models[0].key_dimension,
        vocabulary_size=len(evaluation.task.dictionary),
        dictionary_sha256=evaluation.task.dictionary.sha256(),
        weights_sha256=weights_sha256(evaluation.checkpoints[0].state),
    )


def evaluate(evaluation: "Evaluation", settings: Settings, source: "Source | None") -> "EvaluationResult":
    """Returns the perplexity of the split; on the way it prints words and keeps neighbours where that was asked for."""
    from fairseq.evaluation import EvaluationResult, Stopwatch, score_all
    from fairseq.knn.known import known_arrays
    from fairseq.knn.recorder import RetrievalRecorder
    from fairseq.knn.weighing import WeighedNeighbours
    from fairseq.perplexity import Perplexity
    from fairseq.scoring import Interpolation, WeighedInterpolation
    from fairseq.sequence_scorer import SequenceScorer
    from fairseq.word_scores import WordJoiner, WordStats

    config = settings.eval
    other: Interpolation | WeighedInterpolation | None = None
    if isinstance(source, WeighedNeighbours):
        other = WeighedInterpolation(source)
    elif source is not None:
        other = Interpolation(source, settings.knn.lmbda)
    recorder = source if isinstance(source, RetrievalRecorder) else None
    keep_known = recorder is not None
    scorer = SequenceScorer(evaluation.models, evaluation.precision, config.softmax_batch, other, keep_known)
    joiner = WordJoiner(evaluation.task.dictionary.symbols, config.remove_bpe)
    stats = WordStats()
    perplexity = Perplexity()
    stopwatch = Stopwatch()
    for scored in score_all(evaluation, scorer, perplexity, log_format_of(settings.common), settings.log_every):
        num_joined = joiner.num_joined(scored.target_N, scored.block_idx_N)
        perplexity.add(scored.log_p_N, scored.target_N, num_joined)
        if recorder is not None:
            assert scored.known is not None
            recorder.add(scored, **known_arrays(scored.known))
        if config.output_word_probs or config.output_word_stats:
            output_words(scored, joiner, stats, print_words=config.output_word_probs)
    result = EvaluationResult(perplexity, evaluation.num_left_out, stopwatch.elapsed_s)
    if recorder is not None:
        recorder.finish()
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
    neighbours: "KNN_Dstore | WeighedNeighbours | None",
    argv: Sequence[str],
) -> None:
    """Prints the result, warns of what it hides, and writes it as JSON where that was asked for."""
    from fairseq.evaluation import versions
    from fairseq.knn.weighing import WeighedNeighbours

    symbols = evaluation.task.dictionary.symbols
    for what, ids in (("probability 0", result.perplexity.zero_ids), ("no number", result.perplexity.nan_ids)):
        if ids:
            shown = ", ".join(f"{symbols[token]} ({count})" for token, count in list(ids.items())[:5])
            logger.warning("%d targets have %s as their probability: %s", sum(ids.values()), what, shown)
    sys.stdout.write(result.summary + "\n")
    if evaluation.precision.name != "float32":
        sys.stdout.write(f"Computed in {evaluation.precision.name}\n")
    weighed = neighbours if isinstance(neighbours, WeighedNeighbours) else None
    if weighed is not None:
        sys.stdout.write(weighed.summary() + "\n")
    sys.stdout.flush()
    path = settings.eval.results_file
    if path is not None:
        record = {
            **result.record(symbols),
            **(weighed.record() if weighed is not None else {}),
            "dtype": evaluation.precision.name,
            "device": str(evaluation.precision.device),
            "command": ["fairseq-eval-lm", *argv],
            "inputs": {**evaluation.identity(), **(neighbours.identity() if neighbours is not None else {})},
            "versions": versions(),
            "settings": settings.record(evaluation.task_config),
        }
        write_json(path, record)
        searches = {"search_seconds": round(weighed.search_s, 3)} if weighed is not None else {}
        write_json(path.with_suffix(".time.json"), {**result.speed(), **searches})


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-eval-lm", main))


if __name__ == "__main__":
    cli_main()
