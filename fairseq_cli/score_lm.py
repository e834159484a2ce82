"""``fairseq-score-lm``: the log-probability of every word of a few lines of text, straight from the shell."""

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.errors import ConfigError
from fairseq.evaluate.config import ScoreConfig
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import DatastoreConfig
from fairseq.knn.weight.config import LmbdaModelConfig
from fairseq.storage.inputs import open_input
from fairseq.text.pipeline import TextPipeline
from fairseq_cli.shared.eval_settings import NeighbourSettings, is_model, task_fields
from fairseq_cli.shared.raw_text import OWN_TOKENIZER, open_text, text_groups
from fairseq_cli.shared.run import run

if TYPE_CHECKING:
    from fairseq.criterions.perplexity import Perplexity
    from fairseq.evaluate.texts import Line, Reader, ScoredLine, TextScorer

DESCRIPTION = """Score lines of text with a language model: each word with its log-probability (base 2), then the line's
sum and perplexity. Every line is a context of its own, and ends in </s>, which is scored as well. Words are what
whitespace separates, or what --tokenizer and --bpe make of raw text; a Hugging Face model (--path DIR) reads a line by
its own tokenizer, puts no </s> behind it, and needs no data. --knnlm mixes in the nearest neighbours from a
datastore."""
EXAMPLES = (
    """echo "the cat sat on the mat ." | fairseq-score-lm data-bin/dict.txt --path checkpoints/checkpoint_best.pt""",
    """# with neighbours, as JSON
fairseq-score-lm data-bin --path checkpoints/checkpoint_best.pt --input lines.txt --json --knnlm \\
    --dstore-filename checkpoints/dstore --indexfile checkpoints/knn.index --lmbda 0.25 --knn-temp auto""",
    """# a Hugging Face model, by its own tokenizer
echo "The cat sat on the mat." | fairseq-score-lm --path SmolLM2-135M""",
)


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return (ScoreConfig, *text_groups(), KNNConfig, LmbdaModelConfig, DatastoreConfig, DeviceConfig, CommonConfig)


def main(argv: Sequence[str]) -> None:
    """Scores lines."""
    flags = parse("fairseq-score-lm", DESCRIPTION, flag_groups(), argv, EXAMPLES)
    config = flags.build(ScoreConfig)
    neighbours = NeighbourSettings(flags, config.path)
    device, common = flags.build(DeviceConfig), flags.build(CommonConfig)
    fields = task_fields(flags, config.task, config.path)
    pipeline = open_text(flags)
    if is_model(config.path) and pipeline:
        raise ConfigError(OWN_TOKENIZER)
    scorer, reader, window, found = open_scorer(config, fields, neighbours, device, common.seed)
    flags.warn_unused()

    from fairseq.criterions.perplexity import Perplexity

    total, alone, num_lines = Perplexity(), Perplexity() if neighbours.needed else None, 0
    lines = lines_of(config, pipeline)
    while some := list(itertools.islice(lines, config.buffer_size)):
        for scored in scorer.score_lines(some, reader, window):
            total.add(scored.log_p_N, scored.target_N)
            if alone is not None:
                alone.add(scored.model_log_p_N, scored.target_N)
            mixed = alone is not None
            write = partial(as_json, found=found) if config.json else as_text
            sys.stdout.write(write(scored, reader, mixed=mixed))
        num_lines += len(some)
        sys.stdout.flush()
    if num_lines > 1 and not config.json:
        sys.stdout.write(f"{num_lines} lines: {summary(total, alone)}\n")


def open_scorer(
    config: ScoreConfig, fields: Mapping[str, Any], neighbours: NeighbourSettings, device: DeviceConfig, seed: int
) -> "tuple[TextScorer, Reader, int | None, Mapping[str, Any]]":
    """Returns what scores lines, what reads them, the context of long ones, and what settings came to.

    All is checked before a text is read. Only a Hugging Face model has a context window, None else: its text is not
    cut into sentences.
    """
    import torch

    from fairseq.evaluate.mixture import Mixture
    from fairseq.evaluate.sequence_scorer import SequenceScorer
    from fairseq.evaluate.texts import TextScorer
    from fairseq.runtime.precision import Precision, select_device
    from fairseq.tasks.model_text import text_of_model
    from fairseq.tasks.opening import open_models

    torch.manual_seed(seed)
    precision = Precision(device, select_device(device))
    named, trusted = (config.path, config.task, config.model_overrides), config.trust_remote_code
    opened = open_models(*named, fields, precision, trust_remote_code=trusted)
    mixture = Mixture()
    if neighbours.needed:
        from fairseq_cli.shared.memories import open_memory  # FAISS, which takes a while to import

        mixture = Mixture([open_memory(opened, neighbours)])
    scorer = SequenceScorer(opened.models, precision, mixture, softmax_batch=config.softmax_batch)
    dictionary, settings = opened.task.dictionary, mixture.report().settings
    model_text = text_of_model(opened.checkpoints[0], dictionary, opened.models[0])
    if model_text is not None:
        row = min(opened.max_positions, opened.task_config.tokens_per_sample)
        return TextScorer(scorer, row, config.max_tokens, add_bos=False), model_text, row // 2, settings
    add_bos = opened.task_config.add_bos_token
    lines = TextScorer(scorer, opened.max_positions - add_bos, config.max_tokens, add_bos=add_bos)
    return lines, dictionary, None, settings


def lines_of(config: ScoreConfig, pipeline: TextPipeline) -> "Iterator[Line]":
    """Yields the lines of all inputs, in order, as the dictionary has their words."""
    from fairseq.evaluate.texts import read_lines

    for name in config.input:
        with open_input(name) as file:
            for line in read_lines(name, file):
                yield dataclasses.replace(line, text=pipeline.encode(line.text))


def as_text(scored: "ScoredLine", reader: "Reader", *, mixed: bool) -> str:
    """Returns two lines: ``word [log2 p]`` and so on, separated by tabs; then the sum."""
    tokens = [symbol if word is None else f"{symbol}({word})" for symbol, word in scored.tokens(reader)]
    if (pieces := pieces_of(scored, reader)) is not None:
        from fairseq.data.passages.split_text import one_line

        tokens = list(map(one_line, pieces))
    words = [f"{token} [{log2_p:.4f}]" for token, log2_p in zip(tokens, scored.log2_p(), strict=True)]
    alone = scored.alone.perplexity() if mixed else None
    return "\t".join(words) + f"\n{summary(scored.perplexity(), alone)}\n"


def pieces_of(scored: "ScoredLine", reader: "Reader") -> list[str] | None:
    """Returns the text of each token of a Hugging Face model, white space too; None of words."""
    from fairseq.tasks.model_text import ModelText

    return list(map(reader.piece_of, scored.target_N.tolist())) if isinstance(reader, ModelText) else None


def summary(found: "Perplexity", alone: "Perplexity | None") -> str:
    """Returns what several tokens come to, in words; with neighbours also by the model alone."""
    if not found.count:
        return "0 tokens"
    return (
        f"{found.count} tokens, log2 p {found.log_p_sum / math.log(2):.4f}, loss (base 2) {found.loss:.4f},"
        f" perplexity {found.ppl:.2f}" + (f"; the model alone {alone.ppl:.2f}" if alone is not None else "")
    )


def as_json(scored: "ScoredLine", reader: "Reader", *, found: Mapping[str, Any], mixed: bool) -> str:
    """Returns a line of JSON; log-probabilities in base 2, null if not finite.

    With neighbours (``mixed``) also T, and what the model alone says.
    """
    tokens: list[dict[str, Any]] = [
        {"token": symbol, "log2_p": _finite(log2_p), **({"unknown": word} if word is not None else {})}
        for (symbol, word), log2_p in zip(scored.tokens(reader), scored.log2_p(), strict=True)
    ]
    for token, piece in zip(tokens, pieces_of(scored, reader) or (), strict=False):
        token["text"] = piece
    line, alone = scored.perplexity(), scored.alone.perplexity()
    if mixed:
        for token, log2_p in zip(tokens, scored.alone.log2_p(), strict=True):
            token["lm_log2_p"] = _finite(log2_p)
    record = {
        "input": scored.line.name,
        "line": scored.line.number,
        "tokens": tokens,
        "log2_p": _finite(line.log_p_sum / math.log(2)),
        "loss_base2": _finite(line.loss),
        "ppl": _finite(line.ppl),
        **({"lm_loss_base2": _finite(alone.loss), "lm_ppl": _finite(alone.ppl)} if mixed else {}),
        **found,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-score-lm", main))


if __name__ == "__main__":
    cli_main()
