"""Models and the architectures that name their presets.

A plugin adds a model with ``@register_model("name", config=ConfigDataclass)`` over a factory
``(config, vocabulary_size) -> model``, and an architecture with ``@register_model_architecture("model", "arch")`` over
a function that returns the preset's field values.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fairseq.config.foreign.names import not_built
from fairseq.config.registry import Registry, first_line
from fairseq.errors import ConfigError, did_you_mean
from fairseq.models.presets import ARCHITECTURE_SUMMARIES as _SUMMARIES
from fairseq.models.presets import ARCHITECTURES as _TRANSFORMER_PRESETS
from fairseq.models.transformer_config import TransformerConfig

MODELS = Registry("model", "--arch")
register_model = MODELS.register

Preset = Callable[[], Mapping[str, Any]]
_ARCHITECTURES: dict[str, tuple[str, Preset, str]] = {}


def register_model_architecture(model: str, arch: str, summary: str = "") -> Callable[[Preset], Preset]:
    """Returns a decorator that names a preset of ``model``: a function that returns field values.

    Without a summary, ``--help`` shows the first line of its docstring.
    """

    def decorate(preset: Preset) -> Preset:
        if arch in _ARCHITECTURES:
            raise ConfigError(f"architecture '{arch}' is registered twice; give the second one another name")
        MODELS.config(model)
        _ARCHITECTURES[arch] = (model, preset, summary or first_line(preset))
        return preset

    return decorate


def architecture_names() -> tuple[str, ...]:
    """Returns the names that ``--arch`` takes."""
    return tuple(_ARCHITECTURES)


def architecture_summaries() -> dict[str, str]:
    """Returns a few words on each name that ``--arch`` takes."""
    return {arch: summary for arch, (_, _, summary) in _ARCHITECTURES.items()}


def architecture(arch: str) -> tuple[str, Mapping[str, Any]]:
    """Returns the model of an architecture and its preset's field values; raises ConfigError for an unknown one."""
    if arch not in _ARCHITECTURES:
        raise ConfigError(
            not_built("--arch", arch, _ARCHITECTURES)
            or f"--arch {arch} is not a known architecture{did_you_mean(arch, _ARCHITECTURES)}"
            f" (known: {', '.join(_ARCHITECTURES)}; a plugin's needs --user-dir)"
        )
    model, preset, _ = _ARCHITECTURES[arch]
    return model, preset()


MODELS.add("transformer_lm", "fairseq.models.transformer_lm:build_transformer_lm", TransformerConfig)
for _arch, _values in _TRANSFORMER_PRESETS.items():
    register_model_architecture("transformer_lm", _arch, _SUMMARIES[_arch])(partial(dict, _values))
