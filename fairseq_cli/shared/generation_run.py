"""What the commands that generate share: their flags, the generator, and the lines that they print (``OUTPUT``)."""

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import Flags
from fairseq.errors import ConfigError
from fairseq.generate.config import GenerationConfig, GenerationRunConfig
from fairseq.knn.config import KNNConfig, ShowNeighboursConfig
from fairseq.knn.datastore.config import DatastoreConfig
from fairseq.runtime.log import logger
from fairseq.tasks import TASKS
from fairseq.text.pipeline import TextPipeline
from fairseq.text.post_process import joined, rule_for
from fairseq_cli.shared.eval_settings import NeighbourSettings, task_fields
from fairseq_cli.shared.raw_text import OWN_TOKENIZER, open_text, text_groups

if TYPE_CHECKING:
    from fairseq.arrays import Int64s
    from fairseq.data.dictionary import Dictionary
    from fairseq.generate.generator import Generator
    from fairseq.generate.hypotheses import Hypothesis
    from fairseq.tasks.model_text import ModelText
    from fairseq_cli.shared.neighbour_lines import NeighbourLines


OUTPUT = """
lines for prompt i, from 0; columns are separated by tabs
S-i   the prompt
T-i   what follows the prompt in the split (fairseq-generate)
H-i   score (base 2), text; a higher score is better
D-i   the same as H-i; with --bpe, --tokenizer or a Hugging Face model, as raw text
P-i   log2 p of each token of the text, separated by spaces, </s> included
N-i   a neighbour (--show-neighbours): position, token, share of the vote, row, distance, words around it
A Hugging Face model's texts stand in S, T and D as they are, with \\n, \\r, \\t and \\\\ for these characters.
"""


def generation_groups(prompts: type) -> tuple[type, ...]:
    """Returns the configs of a command that generates; ``prompts`` is the one that says where its prompts come from."""
    knn = (KNNConfig, ShowNeighboursConfig, DatastoreConfig)
    run = (GenerationRunConfig, prompts, GenerationConfig, *TASKS.configs())
    return (*run, *text_groups(), *knn, DeviceConfig, CommonConfig)


@dataclass(frozen=True)
class GenerationRun:
    """The generator, and what is printed of its texts.

    Attributes:
        generator: continues prompts.
        task: the task, with the dictionary.
        config: how large batches are, and whether subwords are joined.
        pipeline: tokenizer and subwords of raw text.
        model_text: the tokenizer of a Hugging Face model, in the place of the pipeline.
        neighbour_lines: of ``--show-neighbours``, where that was asked for.
    """

    generator: "Generator"
    task: Any
    config: GenerationRunConfig
    pipeline: TextPipeline
    model_text: "ModelText | None"
    neighbour_lines: "NeighbourLines | None"

    @property
    def dictionary(self) -> "Dictionary":
        """The dictionary of the task."""
        return self.task.dictionary  # type: ignore[no-any-return]

    def texts(
        self, prompts: "Sequence[Int64s]", ids: Sequence[int]
    ) -> "Iterator[tuple[range, list[list[Hypothesis]]]]":
        """Yields which prompts were continued together, and the texts of each; see ``Generator.batches``."""
        for batch in self.generator.batches(prompts, self.config.most_batch_tokens, self.config.max_sentences):
            yield batch, self.generator.generate([prompts[i] for i in batch], [ids[i] for i in batch])

    def words(self, ids: Iterable[int]) -> str:
        """Returns ids as text, subwords joined where that was asked for."""
        return joined(self.dictionary.string(ids), self.config.post_process)

    def raw_text(self, ids: Iterable[int]) -> str:
        """Returns ids as a person writes text, where a tokenizer or subwords say how; else their words."""
        if self.model_text is not None:
            return self.model_text.line_of(ids)
        if self.pipeline.bpe is None:
            return self.pipeline.detokenize(self.words(ids))
        return self.pipeline.decode(self.dictionary.string(ids))

    def print_texts(
        self, idx: int, prompt_T: "Int64s", texts: "Sequence[Hypothesis]", target_T: "Int64s | None" = None
    ) -> None:
        """Prints the lines of one prompt."""
        given = self.words if self.model_text is None else self.model_text.line_of
        lines = [f"S-{idx}\t{given(prompt_T)}"]
        if target_T is not None:
            lines.append(f"T-{idx}\t{given(target_T)}")
        for text in texts:
            score, words = text.score / math.log(2), self.words(text.tokens_T)
            lines += [f"H-{idx}\t{score:.4f}\t{words}", f"D-{idx}\t{score:.4f}\t{self.raw_text(text.tokens_T)}"]
            lines.append(f"P-{idx}\t" + " ".join(f"{log_p / math.log(2):.4f}" for log_p in text.log_p_T.tolist()))
            if self.neighbour_lines is not None:
                lines += [f"N-{idx}\t{line}" for line in self.neighbour_lines.of(text)]
        sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()


def open_run(flags: Flags, split: str | None = None) -> GenerationRun:
    """Returns the generator that the flags describe; a split that is asked for must be there."""
    common, run = flags.build(CommonConfig), flags.build(GenerationRunConfig)
    device, generation = flags.build(DeviceConfig), flags.build(GenerationConfig)
    most_shown = flags.build(ShowNeighboursConfig).show_neighbours
    settings = NeighbourSettings(flags, run.path, saved=most_shown is not None)
    if most_shown is not None and not settings.knn.knnlm:
        raise ConfigError("--show-neighbours needs neighbours; give --knnlm and its datastore")
    if most_shown is not None and settings.knn.lmbda == 0:
        logger.warning("--lmbda 0 leaves neighbours no weight; give --lmbda, such as 0.25")
    fields = task_fields(flags, run.task, run.path, split)
    pipeline = open_text(flags)

    import torch

    from fairseq.generate.generator import Generator
    from fairseq.runtime.precision import Precision, select_device
    from fairseq.tasks.model_text import text_of_model
    from fairseq.tasks.opening import open_models

    torch.manual_seed(common.seed)
    precision = Precision(device, select_device(device))
    named, trusted = (run.path, run.task, run.model_overrides), run.trust_remote_code
    opened = open_models(*named, fields, precision, trust_remote_code=trusted)
    flags.warn_unused()
    dictionary, add_bos = opened.task.dictionary, opened.task_config.add_bos_token
    model_text = text_of_model(opened.checkpoints[0], dictionary, opened.models[0])
    if model_text is not None and (pipeline or run.post_process is not None):
        raise ConfigError(OWN_TOKENIZER)
    if model_text is None:
        run = dataclasses.replace(run, post_process=rule_for(dictionary.symbols, run.post_process))
    neighbours = lines = None
    if settings.needed:
        from fairseq_cli.shared.memories import open_neighbours

        neighbours = open_neighbours(opened, settings.knn, settings.dstore)
    memories = [(neighbours, settings.knn.lmbda)] if neighbours is not None else []
    ends = None if model_text is None else model_text.ends
    model = opened.models[0]
    generator = Generator(model, precision, generation, memories, seed=common.seed, add_bos=add_bos, ends=ends)
    if neighbours is not None and most_shown is not None:
        from fairseq_cli.shared.neighbour_lines import NeighbourLines

        word_of = dictionary.__getitem__ if model_text is None else model_text.piece_of
        lines = NeighbourLines(neighbours, generator, word_of, most_shown)
    return GenerationRun(generator, opened.task, run, pipeline, model_text, lines)
