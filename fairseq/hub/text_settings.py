"""Which tokenizer and subwords a loaded model reads raw text with.

Weakest first: what the model's name was published with, the checkpoint's own settings, files beside the checkpoint,
keywords of the caller. ``None`` as a keyword turns either off. A file turns nothing on: it only need not be named. What
is on without having been asked for is said, since texts that are already split would be split once more.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.config.flags import flag_fields, resolve
from fairseq.errors import FairseqError
from fairseq.text.pipeline import TextConfig, TextPipeline, open_pipeline, text_configs

logger = logging.getLogger(__name__)

# Names of files that belong to a model, the first of several that is there.
BESIDE = {
    "bpe_codes": ("bpecodes", "code", "bpe.codes"),
    "sentencepiece_model": ("sentencepiece.bpe.model",),
    "gpt2_encoder_json": ("encoder.json",),
    "gpt2_vocab_bpe": ("vocab.bpe",),
    "bpe_merges": ("merges.txt",),
    "bpe_vocab": ("vocab.json",),
}


def text_settings() -> tuple[str, ...]:
    """Returns every keyword of raw text: ``tokenizer``, ``bpe``, and the settings of each kind, older spellings too."""
    fields = [item for config in (TextConfig, *text_configs()) for item in flag_fields(config).items()]
    older = [alias.lstrip("-").replace("-", "_") for _, field in fields for alias in field.metadata["aliases"]]
    return tuple(dict.fromkeys([*(name for name, _ in fields), *older]))


def pipeline_of(
    root: Path, published: Mapping[str, str], checkpoint: Mapping[str, Any], given: Mapping[str, Any]
) -> TextPipeline:
    """Returns the tokenizer and subwords of a model.

    Args:
        root: directory of the model.
        published: ``tokenizer`` and ``bpe`` of a model that is known by name.
        checkpoint: settings of the checkpoint, of which only those of ``text_settings`` are looked at.
        given: keywords of the caller.

    Raises:
        ConfigError: an unknown name, a setting that is missing, or a package that is not installed.
        DataError: a file that cannot be read.
    """
    keywords = _today(given)
    own = {name: value for name, value in checkpoint.items() if name in text_settings() and value is not None}
    choice = resolve(TextConfig, published, own, keywords)
    beside = _beside(root)
    layers = [own, beside, {name: _found(root, value) for name, value in keywords.items()}]
    used = {"tokenizer", "bpe"}
    tools = {name: getattr(choice, name) for name in ("tokenizer", "bpe") if getattr(choice, name)}
    origins = {
        name: " of the checkpoint's settings" if name in own else " of the model's name"
        for name in tools
        if name not in keywords
    }
    off = ", ".join(f"{name}=None" for name in origins)

    def settings(config: type) -> Any:
        used.update(flag_fields(config))
        return resolve(config, *layers)

    try:
        pipeline = open_pipeline(choice.tokenizer, choice.bpe, settings)
    except FairseqError as err:
        if origins:
            err.args = (f"{err}; the model has it by itself, and from_pretrained(…, {off}) takes texts already split",)
        raise
    on = [f"{name}={value!r}{origins.get(name, '')}" for name, value in tools.items()]
    on += [f"{name}={path!r} beside the checkpoint" for name, path in beside.items() if name in used - {*keywords}]
    if origins:
        logger.warning("raw text is read by %s; for texts that are already split, give %s", ", ".join(on), off)
    elif len(on) > len(tools):
        logger.info("raw text is read by %s", ", ".join(on))
    for name in sorted(set(keywords) - used):
        tool = "tokenizer" if "moses" in name or name.endswith("_lang") else "bpe"
        logger.warning("%s has no effect without the %s= that it belongs to", name, tool)
    return pipeline


def _today(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns keywords by today's names, paths as text."""
    names = {
        alias.lstrip("-").replace("-", "_"): name
        for config in text_configs()
        for name, field in flag_fields(config).items()
        for alias in field.metadata["aliases"]
    }
    return {
        names.get(name, name): os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in given.items()
    }


def _beside(root: Path) -> dict[str, str]:
    found = {}
    for name, files in BESIDE.items():
        there = [str(root / file) for file in files if (root / file).is_file()]
        if there:
            found[name] = there[0]
    return found


def _found(root: Path, value: Any) -> Any:
    """Returns a path as it is given, or in the model's directory if it is there only; ``~`` is the user's own."""
    if isinstance(value, str) and value.startswith("~/"):
        return str(Path(value).expanduser())
    if isinstance(value, str) and value and not Path(value).exists() and (root / value).is_file():
        return str(root / value)
    return value
