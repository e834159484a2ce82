"""Classes that a plugin registers, over one of ours: which config they have, and whether all that they define is used.

A method of fairseq's that nothing calls here would be left out without a word, and the model be another one.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fairseq.config.flags import Namespace, flag_fields
from fairseq.errors import ConfigError
from fairseq.plugins.added_flags import with_added_flags
from fairseq.plugins.user_dir import place_of

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
    "optimizer": {"__init__": "(self, parameters, lr, config)"},
    "schedule": {"__init__": "(self, config, optimization)"},
}
# What fairseq's own have in the place of the arguments behind the first one.
_FOREIGN = {
    "src_lengths", "prev_output_tokens", "incremental_state", "encoder_out", "full_context_alignment",
    "params", "optimizer", "fairseq_optimizer",
}  # fmt: skip
_RETURNS = {
    "forward": "; it gets the ids and the first column that is scored, and returns a DecoderOutput, as"
    " super().forward(source_BT, first) does",
}
_PARTS = {
    "model": "call super().build_model(args, task), or override __init__(self, config, vocabulary_size), and replace"
    " parts of self.decoder",
    "task": "a task is made of its config alone, and reads the dictionary itself: __init__(self, config)",
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
        kind: ``"model"``, ``"task"``, ``"optimizer"`` or ``"schedule"``; nothing is known of others.
    """
    if not isinstance(factory, type) or kind not in _CALLED:
        return
    if kind in _UNCALLED and _class_of_ours(factory) is None:
        return
    defined = {name: value for cls in _own_classes(factory) for name, value in vars(cls).items()}
    for name, instead in _UNCALLED.get(kind, {}).items():
        if name in defined and not _is_used(name, defined):
            raise ConfigError(
                f"{factory.__name__} defines {name}, which nothing calls here: {instead}; a helper of your own must"
                " have another name"
            )
    for name, call in _CALLED[kind].items():
        if name not in defined or (name == "__init__" and _makes_itself(factory, defined)):
            continue
        if name in _MAKERS and called_on_class(factory, name) is None and _is_used(name, defined):
            continue  # a helper of its own
        _require_call(factory, name, defined[name], call)


def _makes_itself(factory: type, defined: Mapping[str, Any]) -> bool:
    """Returns whether a class has a way of its own to call ``__init__``, which need not be as ours calls it."""
    makers = [defined[name] for name in _MAKERS if name in defined and called_on_class(factory, name)]
    codes = [getattr(inspect.unwrap(getattr(m, "__func__", m)), "__code__", None) for m in makers]
    return any(code is None or "super" not in code.co_names for code in codes)


def _require_call(factory: type, name: str, method: Any, call: str) -> None:
    """Raises ConfigError if a method cannot take what it is called with, or takes it for something else."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    if not inspect.isroutine(function):
        return
    signature = inspect.signature(function)
    others = list(signature.parameters)[1 - isinstance(method, staticmethod) :][1:]
    number = call.count(",") + 1 - isinstance(method, staticmethod)
    # An optimizer without settings has no config.
    numbers = (number, number - 1) if call.endswith("lr, config)") else (number,)
    if _FOREIGN & set(others) or not any(_binds(signature, number) for number in numbers):
        raise ConfigError(
            f"{factory.__name__}.{name} must take {call}, but takes {signature}{_RETURNS.get(name, '')};"
            " docs/plugins.md has the signatures"
        )


def _binds(signature: inspect.Signature, number: int) -> bool:
    try:
        signature.bind(*range(number))
    except TypeError:
        return False
    return True


@contextmanager
def asked_of_ours(factory: Any, kind: str) -> Iterator[None]:
    """Makes one line of what a plugin's class asks of the class that it extends in vain.

    Raises:
        ConfigError: a method or attribute that is not there, or a constructor that is called otherwise.
    """
    try:
        yield
    except (AttributeError, TypeError) as err:
        ours = _class_of_ours(factory)
        if ours is None or not _own_classes(factory):
            raise
        if isinstance(err, AttributeError):
            in_vain = err.obj is factory or isinstance(err.obj, (factory, Namespace)) or _is_ours(type(err.obj))
        else:
            in_vain = re.match(rf"({ours.__name__}|{factory.__name__})\.__init__\(\)", str(err)) is not None
        if not in_vain:
            raise
        raise ConfigError(
            f"{factory.__name__} cannot be made ({err}){place_of(err)}; {_PARTS[kind]} (docs/plugins.md has an example)"
        ) from err


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
