"""Presets in fairseq's manner: functions that fill in a namespace, and are read as field values.

A plugin registers one so:

    @register_model_architecture("transformer_lm", "my_arch")
    def my_arch(args):
        args.decoder_layers = getattr(args, "decoder_layers", 4)   # what was typed is there before, and stays
        base_lm_architecture(args)                                 # fills in all that is not there yet
"""

import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairseq.config.flags import Namespace, flag_fields, flag_name
from fairseq.errors import ConfigError, shown
from fairseq.models.foreign_settings import is_off, refused
from fairseq.models.presets import ARCHITECTURES, GPT3
from fairseq.models.transformer_config import TransformerConfig
from fairseq.plugins.user_dir import place_of

logger = logging.getLogger(__name__)

PresetFunction = Callable[[Namespace], None]
_OF_NO_PRESET = {"base_lm_architecture": ARCHITECTURES["transformer_lm"], "base_gpt3_architecture": GPT3}
# Settings whose default is another one in fairseq 0.12, where a preset leaves them to it; tried there.
_UNLIKE = {
    "decoder_normalize_before": ("False", "True"),
    "decoder_input_dim": ("512", "decoder_embed_dim"),
    "decoder_output_dim": ("512", "decoder_embed_dim"),
}
# What fairseq's own functions set, and what acts only beside a switch that is refused.
_IDLE = set(
    """base_shuffle base_sublayers char_embedder_highway_layers char_inputs character_embedding_dim character_filters
    cross_self_attention min_params_to_wrap no_cross_attention quant_noise_pq_block_size""".split()  # noqa: SIM905
)


def takes_namespace(function: Callable[..., Any]) -> bool:
    """Returns whether a preset's function is of fairseq's kind, which takes a namespace; ours take nothing.

    Raises:
        ConfigError: it takes more than that.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # one of Python's own, such as dict
        return False
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise ConfigError(
            f"{getattr(function, '__name__', 'a preset')} takes {', '.join(needed)}, but an architecture is a function"
            " of nothing, which returns field values, or of one namespace, which it fills in"
        )
    return bool(needed)


def preset_function(name: str) -> PresetFunction | None:
    """Returns the function that fills in one of our presets, by its name in fairseq; None if there is none."""
    preset = _OF_NO_PRESET.get(name, ARCHITECTURES.get(name))
    if preset is None:
        return None

    def fill(args: Namespace) -> None:
        for field, default in flag_fields(TransformerConfig).items():
            if not hasattr(args, field):
                setattr(args, field, _as_there(preset.get(field, default.default)))
        for field in ("decoder_input_dim", "decoder_output_dim"):
            if getattr(args, field) is None:
                setattr(args, field, args.decoder_embed_dim)

    fill.__name__ = fill.__qualname__ = name
    fill.__doc__ = f"Fills in what ``args`` lacks of {name}."
    return fill


def _as_there(value: Any) -> Any:
    """Returns a field's value as fairseq has it: numbers of words are text."""
    return ",".join(map(str, value)) or None if isinstance(value, tuple) else value


def values_of(function: PresetFunction, arch: str, config: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the field values that a function of fairseq's kind sets.

    Args:
        function: what is registered.
        arch: its name.
        config: the model's config dataclass.
        given: what the namespace holds before: settings of the model that were typed, and all others.

    Raises:
        ConfigError: it asks for something that is not there, or sets what would make another model than is built here.
    """
    args = Namespace(**given)
    try:
        function(args)
    except AttributeError as err:
        if err.obj is not args:
            raise
        raise ConfigError(
            f"--arch {arch} asks for args.{err.name}, which nothing has set{place_of(err)}; call"
            f" base_lm_architecture(args) before, or write getattr(args, {err.name!r}, …)"
        ) from err
    found = _of_today({name: value for name, value in vars(args).items() if given.get(name, ...) is not value})
    own = flag_fields(config)
    kinds = typing.get_type_hints(config)
    others = {name: value for name, value in found.items() if name not in own and not is_off(value)}
    for name in sorted(set(others) & refused(own)):
        raise ConfigError(
            f"--arch {arch} sets {name} = {shown(others[name])}, which is not supported here: it changes what the model"
            " computes; leave it out of the architecture"
        )
    if idle := sorted(set(others) - _IDLE):
        logger.warning(
            "--arch %s sets %s, without effect: the model has no such setting", arch, ", ".join(map(str, idle))
        )
    _warn_of_missing(arch, [name for name in _UNLIKE if name in own and not hasattr(args, name)])
    _warn_of_replaced(arch, found, {name: given[name] for name in own if name in given})
    values = {name: value for name, value in found.items() if name in own}
    return {n: v for n, v in values.items() if v is not None or types.NoneType in typing.get_args(kinds[n])}


def _of_today(values: dict[str, Any]) -> dict[str, Any]:
    """Returns values with today's names for two that fairseq renamed."""
    if "no_tie_adaptive_proj" in values:
        values.setdefault("tie_adaptive_proj", values.pop("no_tie_adaptive_proj") is False)
        values["no_decoder_final_norm"] = True
    if (dropout := values.pop("relu_dropout", None)) and not values.get("activation_dropout"):
        values["activation_dropout"] = dropout
    return values


def _warn_of_missing(arch: str, names: Sequence[str]) -> None:
    """Logs a warning of settings that are not set, and have another default in fairseq 0.12."""
    if names:
        logger.warning(
            "--arch %s does not set %s, where fairseq 0.12 takes %s, and here %s; end it with"
            " base_lm_architecture(args) to have one model in both",
            arch,
            ", ".join(names),
            ", ".join(_UNLIKE[name][0] for name in names),
            ", ".join(_UNLIKE[name][1] for name in names),
        )


def _warn_of_replaced(arch: str, found: Mapping[str, Any], typed: Mapping[str, Any]) -> None:
    """Logs a warning of what was typed, and would be replaced in fairseq."""
    for name in sorted(set(found) & set(typed)):
        logger.warning(
            "--arch %s sets %s to %s whatever is typed; here %s %s is in force",
            arch,
            name,
            shown(found[name]),
            flag_name(name),
            typed[name],
        )
