"""Classes that a plugin registers, over one of ours: which config they have, and whether all that they define is used.

A method of fairseq's that nothing calls here would be left out without a word, and the model be another one.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fairseq.config.flags import flag_fields
from fairseq.errors import ConfigError
from fairseq.plugins.added_flags import with_added_flags

_SPLITS = "a task's data comes from load_split(split, *, epoch, context_window) → BlockDataset"
_TRAINER = "the trainer computes and sums losses; a criterion can compute another one"
_FEATURES = "what layers give comes from forward(source_BT, first) → DecoderOutput"
_UNCALLED = {
    "model": {
        "build_embedding": "override __init__(config, vocabulary_size), and replace self.decoder.embed_tokens",
        "extract_features": _FEATURES,
        "get_normalized_probs": "ln p comes from log_prob(features_NC) and target_log_prob(features_NC, target_N)",
        "get_targets": "targets are the words that follow; a criterion is given them",
        "output_layer": "ln p comes from log_prob(features_NC) and target_log_prob(features_NC, target_N)",
        "reorder_incremental_state": "what a model has read is in the cache of new_cache and extend",
        "set_num_updates": "a model is not told the number of updates",
        "upgrade_state_dict_named": "old names are brought up to date by fairseq.models.upgrade",
        "upgrade_state_dict": "old names are brought up to date by fairseq.models.upgrade",
    },
    "task": {
        "load_dataset": _SPLITS,
        "build_dataset_for_inference": _SPLITS,
        "eval_lm_dataloader": _SPLITS,
        "get_batch_iterator": "batches are made of blocks by fairseq.data.batching",
        "setup_dictionary": "the dictionary is dict.txt of the data directory",
        "build_criterion": "--criterion chooses it",
        "build_generator": "texts are made by fairseq.generate.generator",
        "inference_step": "texts are made by fairseq.generate.generator",
        "train_step": _TRAINER,
        "valid_step": _TRAINER,
        "optimizer_step": _TRAINER,
        "reduce_metrics": "numbers of the log come from a criterion",
        "begin_epoch": "a schedule is given update and epoch",
    },
}
# What is called, and with how many arguments beside the object or class.
_CALLED = {
    "model": {
        "__init__": "(self, config, vocabulary_size)",
        "forward": "(self, source_BT, first)",
        "build_model": "(cls, args, task)",
    },
    "task": {"__init__": "(self, config)", "setup_task": "(cls, config)"},
}

_MAKERS = ("build_model", "setup_task")


def config_of(factory: Callable[..., Any], config: type | None) -> type | None:
    """Returns the config that a factory is called with: the one that is given, else that of the class which it extends.

    A class of ours names it as its ``config_class``, and so does then a plugin's class over it.

    Raises:
        ConfigError: it is no dataclass, or lacks fields that the class of ours reads; added flags cannot be read.
    """
    if config is not None and not dataclasses.is_dataclass(config):
        raise ConfigError(f"{config.__name__} must be a dataclass; write @dataclass above it")
    ours, own = _class_of_ours(factory), _own_classes(factory)
    if ours is None:
        return config
    base = ours.config_class
    lacking = flag_fields(base).keys() - flag_fields(config).keys() if config is not None else set()
    if config is not None and lacking and not _defines("__init__", own):
        raise ConfigError(
            f"{config.__name__} of {factory.__name__} must have the settings that the class reads, but lacks"
            f" {', '.join(sorted(lacking)[:3])}; derive it from {base.__name__}"
        )
    found: type = config or factory.config_class  # type: ignore[attr-defined]
    if own:
        found = with_added_flags(own[-1], found) if _defines("add_args", own) else found
        own[-1].config_class = found  # type: ignore[attr-defined]
    return found


def _class_of_ours(factory: Callable[..., Any]) -> Any:
    """Returns the class of this package with a config that a registered class extends; None where there is none."""
    classes = getattr(factory, "__mro__", ())
    return next((cls for cls in classes if _is_ours(cls) and "config_class" in vars(cls)), None)


def require_known(factory: Callable[..., Any], kind: str) -> None:
    """Raises ConfigError if a class over one of ours defines what nothing calls, or what is called otherwise.

    Args:
        factory: what is registered; a function, and a class of the plugin's own, may define what they like.
        kind: ``"model"`` or ``"task"``; nothing is known of others.
    """
    if not isinstance(factory, type) or _class_of_ours(factory) is None:
        return
    defined = {name: value for cls in _own_classes(factory) for name, value in vars(cls).items()}
    for name, instead in _UNCALLED.get(kind, {}).items():
        if name in defined and not _is_used(name, defined):
            raise ConfigError(
                f"{factory.__name__} defines {name}, which nothing calls here: {instead}; a helper of your own must"
                " have another name"
            )
    for name, call in _CALLED.get(kind, {}).items():
        if name not in defined or (name == "__init__" and any(called_on_class(factory, maker) for maker in _MAKERS)):
            continue
        method = inspect.unwrap(getattr(defined[name], "__func__", defined[name]))
        is_helper = name in _MAKERS and called_on_class(factory, name) is None and _is_used(name, defined)
        if is_helper or not inspect.isroutine(method):
            continue
        signature = inspect.signature(method)
        first = isinstance(defined[name], staticmethod)
        try:
            signature.bind(*range(call.count(",") + 1 - first))
        except TypeError:
            raise ConfigError(
                f"{factory.__name__}.{name} must take {call}, but takes {signature}; docs/plugins.md has the signatures"
            ) from None


def called_on_class(factory: Callable[..., Any], name: str) -> Callable[..., Any] | None:
    """Returns the method of a plugin's class that makes an object of it, such as ``build_model``; None without one.

    A method of its objects that has the same name is something else.
    """
    if not _defines(name, _own_classes(factory)):
        return None
    method: Any = getattr(factory, name)
    of_class = inspect.ismethod(method) or isinstance(inspect.getattr_static(factory, name), staticmethod)
    return method if of_class else None


def _own_classes(factory: Callable[..., Any]) -> list[type]:
    """Returns a class and those that it extends, up to the first one of this package; nothing of a function."""
    found = []
    for base in getattr(factory, "__mro__", ()):
        if _is_ours(base):
            break
        found.append(base)
    return found[::-1]


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "fairseq"


def _defines(name: str, classes: Iterable[type]) -> bool:
    return any(name in vars(cls) for cls in classes)


def _is_used(name: str, defined: Mapping[str, Any]) -> bool:
    """Returns whether another method than that of the name reads an attribute of it."""
    codes = [
        code
        for other, value in defined.items()
        if other != name
        for function in (value, getattr(value, "__func__", None), getattr(value, "fget", None))
        if (code := getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)) is not None
    ]
    while codes:
        code = codes.pop()
        if name in code.co_names:
            return True
        codes += [inner for inner in code.co_consts if inspect.iscode(inner)]
    return False
