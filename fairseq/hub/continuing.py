"""Prompts continued by a model, or by a model and its neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

from fairseq.arrays import Int64s
from fairseq.config.flags import coerce, flag_fields, resolve
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, did_you_mean
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.generate.config import GenerationConfig
from fairseq.generate.generator import Generator, Hypothesis, Vocabulary
from fairseq.hub.protocol import RowSource
from fairseq.runtime.precision import Precision

# Prompts that are continued together; their draws and texts do not depend on it.
PROMPTS_AT_ONCE = 16


def continued(
    prompts: Sequence[Int64s],
    model: Any,
    precision: Precision,
    dictionary: Dictionary,
    *,
    add_bos: bool,
    source: RowSource | None,
    lmbda: float,
    seed: int,
    settings: Mapping[str, Any],
) -> list[list[Hypothesis]]:
    """Returns the texts behind each prompt, the best first.

    Args:
        prompts: ids, without the ``</s>`` that would end them.
        model: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        dictionary: words and ids.
        add_bos: whether the model's blocks begin with ``<s>``.
        source: mixed in, where there is one.
        lmbda: its weight λ.
        seed: of random draws.
        settings: fields of ``GenerationConfig``; a beam of 1 if left out, as in fairseq's hub.

    Raises:
        ConfigError: no such setting, one out of range, or a prompt that leaves no room.
    """
    known = flag_fields(GenerationConfig)
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, [*known, "seed"])
            raise ConfigError(f"{name} is not a setting of generating text{hint} (known: {', '.join(known)}, seed)")
    config = resolve(GenerationConfig, {"beam": 1, **settings})
    opening = (dictionary.bos(), dictionary.eos()) if add_bos else (dictionary.eos(),)
    vocabulary = Vocabulary(len(dictionary), dictionary.pad(), dictionary.eos(), dictionary.unk(), opening)
    mixed = NextTokenMixture([(source, lmbda)]) if source is not None and lmbda > 0 else None
    generator = Generator(model, precision, config, vocabulary, mixed, seed=coerce(seed, int, "seed"))
    texts: list[list[Hypothesis]] = []
    for first in range(0, len(prompts), PROMPTS_AT_ONCE):
        numbers = range(first, min(first + PROMPTS_AT_ONCE, len(prompts)))
        texts += generator.generate([prompts[number] for number in numbers], numbers)
    return texts
