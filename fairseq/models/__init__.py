"""Models and the architectures that name their presets.

A plugin adds a model with ``@register_model("name", config=ConfigDataclass)`` over a factory
``(config, vocabulary_size) -> model``, and an architecture with ``@register_model_architecture("model", "arch")`` over
a function that returns the preset's field values, or one of fairseq's kind (``preset_functions.py``). A model's own
name is an architecture as well: its defaults.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from fairseq.config.foreign.names import not_built
from fairseq.config.registry import Registry, first_line
from fairseq.errors import ConfigError, did_you_mean, some_of
from fairseq.models.preset_functions import takes_namespace, values_of
from fairseq.models.presets import ARCHITECTURE_SUMMARIES as _SUMMARIES
from fairseq.models.presets import ARCHITECTURES as _TRANSFORMER_PRESETS
from fairseq.models.transformer_config import TransformerConfig
from fairseq.plugins.foreign_names import not_here

logger = logging.getLogger(__name__)
MODELS = Registry("model", "--arch")
register_model = MODELS.register

Preset = Callable[..., Any]  # () → field values, or fairseq's (namespace) → None
F = TypeVar("F", bound=Preset)
_ARCHITECTURES: dict[str, tuple[str, Preset, str]] = {}


def register_model_architecture(model: str, arch: str, summary: str = "") -> Callable[[F], F]:
    """Returns a decorator that names a preset of ``model``: a function that returns field values, or fills a namespace.

    Without a summary, ``--help`` shows the first line of its docstring. One of a model that is not here is left out,
    with a warning: a plugin may have architectures of translation as well.
    """

    def decorate(preset: F) -> F:
        if arch in _ARCHITECTURES:
            raise ConfigError(f"architecture '{arch}' is registered twice; give the second one another name")
        takes_namespace(preset)
        if model not in MODELS.names():
            logger.warning(
                "architecture '%s' is left out: its model '%s' is not here (known: %s; a plugin registers a model"
                " before its architectures)",
                arch,
                model,
                ", ".join(MODELS.names()),
            )
            return preset
        _ARCHITECTURES[arch] = (model, preset, summary or first_line(preset))
        return preset

    return decorate


def architecture_names() -> tuple[str, ...]:
    """Returns the names that ``--arch`` takes."""
    return tuple(architecture_summaries())


def architecture_summaries() -> dict[str, str]:
    """Returns a few words on each name that ``--arch`` takes."""
    named = {arch: summary for arch, (_, _, summary) in _ARCHITECTURES.items()}
    return named | {name: summary for name, summary in MODELS.summaries().items() if name not in named}


def model_of(arch: str) -> str:
    """Returns the name of an architecture's model; raises ConfigError for an unknown one."""
    if arch in _ARCHITECTURES:
        return _ARCHITECTURES[arch][0]
    if arch in MODELS.names():
        return arch
    raise ConfigError(
        not_built("--arch", arch, architecture_names())
        or f"--arch {arch} is not a known architecture{did_you_mean(arch, architecture_names())}"
        f" (known: {some_of(architecture_names())}; a plugin's needs --user-dir)"
    )


def architecture(arch: str, given: Mapping[str, Any] | None = None) -> tuple[str, Mapping[str, Any]]:
    """Returns the model of an architecture and its preset's field values.

    Args:
        arch: its name.
        given: what a preset of fairseq's kind finds in its namespace: ``Flags.for_preset``.

    Raises:
        ConfigError: it is unknown, or sets what would make a model that is not built here.
    """
    model = model_of(arch)
    _, preset, _ = _ARCHITECTURES.get(arch, (model, dict, ""))
    config = MODELS.config(model)
    if config is None or not takes_namespace(preset):
        return model, preset()
    return model, values_of(preset, arch, config, given or {})


MODELS.add("transformer_lm", "fairseq.models.transformer_lm:build_transformer_lm", TransformerConfig)
for _arch, _values in _TRANSFORMER_PRESETS.items():
    register_model_architecture("transformer_lm", _arch, _SUMMARIES[_arch])(partial(dict, _values))


def __getattr__(name: str) -> Any:
    """Says what to use instead of a name of fairseq's."""
    return not_here(__name__, name)
