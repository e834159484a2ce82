"""Models and the architectures that name their presets.

A plugin adds a model with ``@register_model("name", config=ConfigDataclass)`` over a factory
``(config, vocabulary_size) -> model``, and an architecture with ``@register_model_architecture("model", "arch")`` over
a function that returns the preset's field values.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fairseq.config.registry import Registry
from fairseq.errors import ConfigError, did_you_mean
from fairseq.models.transformer_config import ARCHITECTURES as _TRANSFORMER_PRESETS
from fairseq.models.transformer_config import TransformerConfig

MODELS = Registry("model", "--arch")
register_model = MODELS.register

Preset = Callable[[], Mapping[str, Any]]
_ARCHITECTURES: dict[str, tuple[str, Preset]] = {}


def register_model_architecture(model: str, arch: str) -> Callable[[Preset], Preset]:
    """Returns a decorator that names a preset of ``model``: a function that returns field values."""

    def decorate(preset: Preset) -> Preset:
        if arch in _ARCHITECTURES:
            raise ConfigError(f"architecture '{arch}' is registered twice; give the second one another name")
        MODELS.config(model)
        _ARCHITECTURES[arch] = (model, preset)
        return preset

    return decorate


def architecture_names() -> tuple[str, ...]:
    """Returns the names that ``--arch`` takes."""
    return tuple(_ARCHITECTURES)


def architecture(arch: str) -> tuple[str, Mapping[str, Any]]:
    """Returns the model of an architecture and its preset's field values; raises ConfigError for an unknown one."""
    if arch not in _ARCHITECTURES:
        raise ConfigError(
            f"--arch {arch} is not a known architecture{did_you_mean(arch, _ARCHITECTURES)}"
            f" (known: {', '.join(_ARCHITECTURES)}; a plugin's needs --user-dir)"
        )
    model, preset = _ARCHITECTURES[arch]
    return model, preset()


MODELS.add("transformer_lm", "fairseq.models.transformer_lm:build_transformer_lm", TransformerConfig)
for _arch, _values in _TRANSFORMER_PRESETS.items():
    register_model_architecture("transformer_lm", _arch)(partial(dict, _values))
