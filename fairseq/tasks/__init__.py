"""Tasks: what data is, and which model it needs. A plugin adds one with ``@register_task("name", config=…)``."""

from typing import Any

from fairseq.config.registry import Registry
from fairseq.data.config import LanguageModelingConfig
from fairseq.plugins.classes import called_on_class

TASKS = Registry("task", "--task")
register_task = TASKS.register


def make_task(name: str, config: Any) -> Any:
    """Returns the task of a name; a class of fairseq's kind is made by its ``setup_task``."""
    factory = TASKS.get(name)
    return (called_on_class(factory, "setup_task") or factory)(config)


TASKS.add(
    "language_modeling",
    "fairseq.tasks.language_modeling:LanguageModelingTask",
    LanguageModelingConfig,
    "predict the next word of a text",
)
