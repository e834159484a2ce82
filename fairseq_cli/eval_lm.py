"""``fairseq-eval-lm``: the perplexity of a text, with neighbours or without; or the datastore of a text."""

import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.data.config import IN_FORCE_WITHOUT_CHECKPOINT
from fairseq.evaluate.config import CacheConfig, EvalConfig, times_path
from fairseq.knn.config import KNNConfig, OwnRowConfig, RetrievalConfig
from fairseq.knn.datastore.config import DatastoreConfig, DumpConfig
from fairseq.knn.weight.config import LmbdaModelConfig
from fairseq.runtime.interrupts import advising
from fairseq.runtime.log import logger
from fairseq.runtime.resources import keep_freed_memory
from fairseq.storage.files import is_stream, locked, write_json
from fairseq.tasks import TASKS
from fairseq_cli.shared.eval_settings import EvalSettings, task_fields
from fairseq_cli.shared.processes import ProcessesConfig, leave, rank, start
from fairseq_cli.shared.run import run

if TYPE_CHECKING:
    from fairseq.evaluate.evaluation import Evaluation
    from fairseq.evaluate.mixture import Mixture
    from fairseq.evaluate.result import EvaluationResult
    from fairseq.evaluate.sequence_scorer import ScoredBatch
    from fairseq.evaluate.words import SourceTokens, WordJoiner, WordStats
    from fairseq.knn.retrieval.recorder import RetrievalRecorder
    from fairseq.runtime.distributed import ProcessGroup

DESCRIPTION = """Measure the perplexity of a language model on a split of binarised data. --knnlm mixes in the nearest
neighbours from a datastore, --cache-size the text's most recent tokens. --save-knnlm-dstore writes the datastore of the
split instead. With --distributed-world-size, or under torchrun, several processes share the work."""
MODULE = "fairseq_cli.eval_lm"
# How long a process waits for one whose share takes longer: as long as an evaluation may take.
PATIENCE = timedelta(days=30)
STOPPED = "nothing is kept of a stopped evaluation; the same command starts from the beginning"
KEPT = "the rows that are written are kept, and the same command goes on from there"
EXAMPLES = (
    """# perplexity of valid
fairseq-eval-lm data-bin --path checkpoints/checkpoint_best.pt --gen-subset valid""",
    """# write the datastore of the training text, then index it with fairseq-build-dstore
fairseq-eval-lm data-bin --path checkpoints/checkpoint_best.pt --gen-subset train \\
    --context-window 64 --save-knnlm-dstore --dstore-mmap checkpoints/dstore""",
    """# perplexity with neighbours, which are kept for fairseq-knnlm sweep and report
fairseq-eval-lm data-bin --path checkpoints/checkpoint_best.pt --gen-subset valid \\
    --context-window 64 --knnlm --dstore-filename checkpoints/dstore \\
    --indexfile checkpoints/knn.index --lmbda 0.25 --knn-temp auto --save-retrieval retrieval/valid""",
    """# a Hugging Face model, on text that fairseq-preprocess --tokenizer SmolLM2-135M wrote
fairseq-eval-lm data --path SmolLM2-135M --gen-subset valid --sample-break-mode document""",
)


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    neighbours = (KNNConfig, OwnRowConfig, LmbdaModelConfig, RetrievalConfig)
    return (
        EvalConfig,
        *TASKS.configs(),
        *neighbours,
        CacheConfig,
        DumpConfig,
        DatastoreConfig,
        ProcessesConfig,
        DeviceConfig,
        CommonConfig,
    )


def main(argv: Sequence[str]) -> None:
    """Evaluates, or writes a datastore."""
    flags = parse("fairseq-eval-lm", DESCRIPTION, flag_groups(), argv, EXAMPLES, remarks=IN_FORCE_WITHOUT_CHECKPOINT)
    go_on = KEPT if flags.typed.get("save_knnlm_dstore") else STOPPED
    if (number := flags.build(ProcessesConfig).to_start(MODULE, argv)) > 0:
        start(MODULE, argv, number, flags.build(DeviceConfig), lambda: go_on)
        return
    settings = EvalSettings(flags)
    if rank() == 0:
        settings.claim_outputs(["fairseq-eval-lm", *argv])
    fields = task_fields(flags, settings.eval.task, settings.eval.path, settings.eval.gen_subset)

    import torch

    from fairseq.evaluate.evaluation import prepare
    from fairseq.runtime.distributed import joined
    from fairseq.runtime.precision import Precision, select_device
    from fairseq.runtime.shares import Share

    with advising(go_on), joined("cpu", lambda: go_on, PATIENCE) as group:
        torch.manual_seed(settings.common.seed)
        precision = Precision(settings.device, select_device(settings.device, group.local_rank))
        if precision.device.type == "cpu":
            keep_freed_memory()
        own = Share(settings.eval.shard_id, settings.eval.num_shards)
        if group.world_size > 1:
            own = Share(group.rank, group.world_size)
        evaluation = prepare(
            settings.eval,
            fields,
            precision,
            Share() if settings.dump.save_knnlm_dstore else own,  # rows are shared by groups of them
            stream_order=settings.has_cache,
            searches=settings.neighbours.needed,
        )
        flags.warn_unused()
        if settings.dump.save_knnlm_dstore:
            from fairseq.knn.dump.dump import dump_datastore

            dump_datastore(evaluation, settings.eval, settings.dump, settings.neighbours.dstore, group)
        else:
            measure(evaluation, settings, group, argv)


def measure(evaluation: "Evaluation", settings: EvalSettings, group: "ProcessGroup", argv: Sequence[str]) -> None:
    """Evaluates, and tells of it."""
    from fairseq_cli.shared.memories import open_mixture

    with ExitStack() as stack:
        results = settings.eval.results_file if group.rank == 0 else None
        if results is not None and stack.enter_context(locked(results)):  # an impossible place fails at once
            logger.info("an earlier run of %s was stopped; evaluating from the beginning", results)
        mixture, recorder = open_mixture(evaluation, settings, stack, group)
        result = evaluate(evaluation, settings, mixture, recorder, group)
        if group.rank == 0:
            report(result, evaluation, settings, mixture, recorder, argv)


def evaluate(
    evaluation: "Evaluation",
    settings: EvalSettings,
    mixture: "Mixture",
    recorder: "RetrievalRecorder | None",
    group: "ProcessGroup",
) -> "EvaluationResult":
    """Returns the perplexity of the split; on the way it prints words and keeps neighbours where that was asked for."""
    from fairseq.criterions.perplexity import Perplexity
    from fairseq.evaluate.cache_sweep import CacheSweep
    from fairseq.evaluate.evaluation import score_all
    from fairseq.evaluate.result import EvaluationResult, PartialResult, total
    from fairseq.evaluate.sequence_scorer import SequenceScorer
    from fairseq.evaluate.words import SourceTokens, WordJoiner, WordStats

    config = settings.eval
    sweep = CacheSweep(settings.cache) if settings.cache.is_sweep and not settings.neighbours.knn.knnlm else None
    scorer = SequenceScorer(evaluation.models, evaluation.precision, mixture, softmax_batch=config.softmax_batch)
    joiner: WordJoiner | SourceTokens = WordJoiner(evaluation.task.dictionary.symbols, config.post_process)
    if evaluation.source is not None:
        if config.post_process is not None:
            logger.warning("--post-process has no effect: tokens of a model's tokenizer are told by the source text")
        joiner = SourceTokens(evaluation.source, evaluation.dataset.starts)
    lm = Perplexity() if mixture.memories and sweep is None else None
    stats, perplexity, start = WordStats(), Perplexity(), time.monotonic()
    for scored in score_all(evaluation, scorer, perplexity, settings.log_every):
        num_joined = joiner.num_joined(scored.target_N, scored.block_idx_N)
        perplexity.add(scored.log_p_N, scored.target_N, num_joined)
        if lm is not None:
            lm.add(scored.model_log_p_N, scored.target_N, num_joined)
        if sweep is not None:
            sweep.add(scored, num_joined)
        if recorder is not None:
            recorder.add(scored)
        if config.output_word_probs or config.output_word_stats:
            output_words(scored, joiner, stats, print_words=config.output_word_probs)
    found = sweep.best() if sweep is not None else perplexity
    symbols = evaluation.task.dictionary.symbols
    own = PartialResult.of(evaluation.share, found, lm, evaluation.size, symbols, mixture.counts())
    if recorder is not None:
        recorder.flush()  # all processes, before the first one says that all is there
    whole = total(group.gather(own))
    elapsed_s = time.monotonic() - start
    mixture.set_counts(whole.memories)
    if config.output_word_stats:
        sys.stdout.writelines(line + "\n" for line in stats.lines())
    if sweep is not None:
        sys.stdout.write(sweep.table())
    rows = sweep.rows() if sweep is not None else None
    return EvaluationResult(whole, evaluation.num_left_out, elapsed_s, rows)


def output_words(
    scored: "ScoredBatch", joiner: "WordJoiner | SourceTokens", stats: "WordStats", *, print_words: bool
) -> None:
    """Counts the words of a batch, and prints each block's on a line: ``block word [log p] …``."""
    for block_idx, rows in scored.blocks():
        words = list(joiner.words(scored.target_N[rows], scored.log_p_N[rows], block_idx))
        stats.add(words)
        if print_words:
            sys.stdout.write(f"{block_idx} " + "\t".join(f"{w.text} [{w.log_p:.6f}]" for w in words) + "\n")


def report(
    result: "EvaluationResult",
    evaluation: "Evaluation",
    settings: EvalSettings,
    mixture: "Mixture",
    recorder: "RetrievalRecorder | None",
    argv: Sequence[str],
) -> None:
    """Prints the result, warns of what it hides, and writes it as JSON where that was asked for."""
    from fairseq.evaluate.result import versions
    from fairseq.storage.records import as_json

    is_part = settings.eval.num_shards > 1
    for line in result.warnings:
        logger.warning("%s", line)
    sys.stdout.write(result.summary + "\n")
    if evaluation.precision.name != "float32":
        sys.stdout.write(f"Computed in {evaluation.precision.name}\n")
    if is_part:
        sys.stdout.write(evaluation.shard_line + "\n")
    memories = mixture.report()
    if result.lm is not None and result.found.targets:
        sys.stdout.write(result.lm_line + "\n")
    sys.stdout.writelines(line + "\n" for line in memories.summary if result.found.targets)
    sys.stdout.flush()
    for line in memories.warnings:
        logger.warning("%s", line)
    if not is_part:  # which may well be harder than the rest
        advise(result, settings, memories.found)
    record = {
        **result.record(),
        **({"shard": as_json(result.found)} if is_part else {}),
        **memories.found,
        "dtype": evaluation.precision.name,
        "device": str(evaluation.precision.device),
        "inputs": {**evaluation.inputs(), **memories.identity},
        "versions": versions(),
        "settings": {**settings.record(evaluation.task_config), **memories.settings},
    }
    command, speed = ["fairseq-eval-lm", *argv], {**result.speed(), **memories.speed}
    path = settings.eval.results_file
    if path is not None:
        write_json(path, {"kind": "evaluation", **record, "command": command})
        if not is_stream(path):
            write_json(times_path(path), {"kind": "times", **speed})
    saved = settings.retrieval.save_retrieval
    if recorder is not None:
        recorder.keep(record, result.found, command, speed)
    if saved is not None and is_part:
        logger.info("when all jobs are done: fairseq-knnlm join %s", shlex.quote(saved))
    elif saved is not None:
        keep_evaluation(Path(saved), record, command, speed)


def advise(result: "EvaluationResult", settings: EvalSettings, found: Mapping[str, Any]) -> None:
    """Logs what to do where the mixture is worse than the model alone, or hardly better."""
    mixture, lm = result.perplexity, result.lm
    if lm is None:
        return
    if result.is_worse_than_lm:
        logger.warning("%s; %s", result.worse_line, settings.what_to_choose)
    elif "neighbours" in found and math.isfinite(lm.ppl):
        advice = settings.about_temperature(1 - mixture.ppl / lm.ppl, found["neighbours"]["nearest_share"])
        if advice:
            logger.info("%s", advice)


def keep_evaluation(directory: Path, record: dict[str, Any], command: list[str], speed: dict[str, float]) -> None:
    """Puts the result into those of the saved retrieval."""
    from fairseq.knn.retrieval.format import RetrievalManifest
    from fairseq.knn.retrieval.results import Kept, keep, plain
    from fairseq.storage.records import as_json

    manifest = RetrievalManifest.read(directory)
    found = {"split": manifest.split, "lm": as_json(manifest.lm), **record}
    keep(Kept(directory, "evaluation", plain(found)), command, speed)


def cli_main() -> None:
    """Entry point of the console script."""
    leave(run("fairseq-eval-lm", main, knows_ranks=True))


if __name__ == "__main__":
    cli_main()
