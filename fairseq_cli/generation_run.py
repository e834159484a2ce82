"""What the commands that generate share: their settings, the generator, and the lines that they print.

S-7   the prompt
T-7   what follows it in the data (fairseq-generate)
H-7   score, base 2          the text
D-7   the same, as tools for translation expect it
P-7   log2 p of each token of the text, </s> included where it ends in it
N-7   position, token, share of the vote, row, distance, text of the row        --show-neighbours
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairseq.arrays import Int64s
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import Flags, resolve
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import ConfigError
from fairseq.generate.config import GenerationConfig, GenerationRunConfig
from fairseq.knn.config import KNNConfig, ShowNeighboursConfig
from fairseq.knn.datastore.config import DatastoreConfig
from fairseq.runtime.inputs import require_inputs
from fairseq.runtime.log import logger
from fairseq.tasks import TASKS

if TYPE_CHECKING:
    from fairseq.data.dictionary import Dictionary
    from fairseq.generate.generator import Generator
    from fairseq.generate.hypotheses import Hypothesis
    from fairseq_cli.neighbour_lines import NeighbourLines

GROUPS = (GenerationRunConfig, GenerationConfig)
MORE_GROUPS = (KNNConfig, ShowNeighboursConfig, DatastoreConfig, DeviceConfig, CommonConfig)


class Settings:
    """Every config that the commands share."""

    def __init__(self, flags: Flags) -> None:
        self.common = flags.build(CommonConfig)
        self.device = flags.build(DeviceConfig)
        self.run = flags.build(GenerationRunConfig)
        self.generation = flags.build(GenerationConfig)
        build = flags.build if flags.typed.get("knnlm") else lambda config: resolve(config, flags.typed)
        self.knn: KNNConfig = build(KNNConfig)
        self.dstore: DatastoreConfig = build(DatastoreConfig)
        self.show_neighbours = flags.build(ShowNeighboursConfig).show_neighbours
        if self.show_neighbours is not None and not self.knn.knnlm:
            raise ConfigError("--show-neighbours needs neighbours; give --knnlm and its datastore")
        if self.knn.knnlm and self.knn.lmbda == 0:
            logger.warning("--lmbda 0 leaves neighbours no weight; give --lmbda, such as 0.25")


@dataclass(frozen=True)
class GenerationRun:
    """The generator, and what is printed of its texts."""

    generator: "Generator"
    task: Any
    settings: Settings
    neighbour_lines: "NeighbourLines | None"

    @property
    def dictionary(self) -> "Dictionary":
        """The words."""
        return self.task.dictionary  # type: ignore[no-any-return]

    def batches(self, prompts: Sequence["Int64s"]) -> list[range]:
        """Returns which prompts are continued together, in order.

        Raises:
            ConfigError: one prompt alone is too much, or leaves no room for a token.
        """
        most_tokens, most_prompts = self.settings.run.most_batch_tokens, self.settings.run.max_sentences
        batches, first, longest = [], 0, 0
        for number, prompt_T in enumerate(prompts):
            size = (len(prompt_T) + self.generator.most_tokens(len(prompt_T))) * self.settings.generation.beam
            if most_tokens is not None and size > most_tokens:
                raise ConfigError(
                    f"--max-tokens {most_tokens} must hold a prompt and its texts, --beam times, but one of"
                    f" {len(prompt_T)} tokens needs {size}; raise it, or lower --beam or --max-len-b"
                )
            longest = max(longest, size)
            count = number + 1 - first
            if (most_tokens is not None and longest * count > most_tokens) or count > (most_prompts or count):
                batches.append(range(first, number))
                first, longest = number, size
        return [*batches, range(first, len(prompts))] if prompts else []

    def words(self, ids: Iterable[int]) -> str:
        """Returns ids as text, subwords joined where that was asked for."""
        text, mark = self.dictionary.string(ids), self.settings.run.remove_bpe
        return text if mark is None else f"{text} ".replace(mark, "").rstrip()

    def print_texts(
        self,
        idx: int,
        prompt_T: "Int64s",
        texts: Sequence["Hypothesis"],
        target_T: "Int64s | None" = None,
    ) -> None:
        """Prints the lines of one prompt."""
        lines = [f"S-{idx}\t{self.words(prompt_T)}"]
        if target_T is not None:
            lines.append(f"T-{idx}\t{self.words(target_T)}")
        for text in texts:
            score, words = text.score / math.log(2), self.words(text.tokens_T)
            lines += [f"H-{idx}\t{score:.4f}\t{words}", f"D-{idx}\t{score:.4f}\t{words}"]
            lines.append(f"P-{idx}\t" + " ".join(f"{log_p / math.log(2):.4f}" for log_p in text.log_p_T.tolist()))
            if self.neighbour_lines is not None:
                lines += [f"N-{idx}\t{line}" for line in self.neighbour_lines.of(text)]
        sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()


def open_run(flags: Flags, settings: Settings, split: str | None = None) -> GenerationRun:
    """Returns the generator that the flags describe; a split that is asked for must be there."""
    if TASKS.config(settings.run.task) is LanguageModelingConfig:
        data = flags.typed.get("data", LanguageModelingConfig.data)
        require_inputs(settings.run.path or "", data, split)

    import torch

    from fairseq.evaluate.mixture import NextInterpolation
    from fairseq.generate.generator import Generator
    from fairseq.generate.hypotheses import Specials
    from fairseq.runtime.precision import Precision, select_device
    from fairseq.tasks.opening import identity_of, open_models

    torch.manual_seed(settings.common.seed)
    precision = Precision(settings.device, select_device(settings.device))
    opened = open_models(flags, settings.run, precision)
    flags.warn_unused()
    dictionary = opened.task.dictionary
    specials = Specials.of(dictionary, add_bos=opened.task_config.add_bos_token)
    neighbours, source, lines = None, None, None
    if settings.knn.knnlm and (settings.knn.lmbda > 0 or settings.show_neighbours is not None):
        from fairseq_cli.neighbours import open_neighbours

        model = identity_of(opened.models[0], dictionary, opened.checkpoints[0])
        neighbours = open_neighbours(model, settings.knn, settings.dstore)
        source = NextInterpolation(neighbours, settings.knn.lmbda)
    generator = Generator(opened.models[0], precision, settings.generation, specials, source, seed=settings.common.seed)
    if neighbours is not None and settings.show_neighbours is not None:
        from fairseq_cli.neighbour_lines import NeighbourLines

        lines = NeighbourLines(neighbours, generator, dictionary, settings.show_neighbours)
    return GenerationRun(generator, opened.task, settings, lines)
