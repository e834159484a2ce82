"""Tasks: what data is, and which model it needs. A plugin adds one with ``@register_task("name", config=…)``."""

import dataclasses
import inspect
from typing import Any

from fairseq.config.registry import Registry, load
from fairseq.data.config import LanguageModelingConfig
from fairseq.plugins.classes import asked_of_ours, called_on_class
from fairseq.plugins.foreign_names import not_here

TASKS = Registry("task", "--task")
register_task = TASKS.register


def make_task(name: str, config: Any) -> Any:
    """Returns the task of a name; a class of fairseq's kind is made by its ``setup_task``."""
    factory = TASKS.get(name)
    with asked_of_ours(factory, "task"):
        return (called_on_class(factory, "setup_task") or factory)(config)


def reads_splits(name: str) -> bool:
    """Returns whether a task reads the splits of ``config.data`` as ours does: it is ours, or derives from it."""
    if name == "language_modeling":
        return True
    factory, config = TASKS.get(name), TASKS.config(name)
    ours = load("fairseq.tasks.language_modeling:LanguageModelingTask")
    if config is None or "data" not in {field.name for field in dataclasses.fields(config)}:
        return False
    methods = ("__init__", "setup_task", "split_prefix", "load_split", "_text")
    return all(inspect.getattr_static(factory, m, None) is inspect.getattr_static(ours, m) for m in methods)


TASKS.add(
    "language_modeling",
    "fairseq.tasks.language_modeling:LanguageModelingTask",
    LanguageModelingConfig,
    "predict the next word of a text",
)


def __getattr__(name: str) -> Any:
    """Says what to use instead of a name of fairseq's."""
    return not_here(__name__, name)
