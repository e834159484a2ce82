"""Tasks: what data is, and which model it needs. A plugin adds one with ``@register_task("name", config=…)``."""

from fairseq.config.registry import Registry
from fairseq.data.config import LanguageModelingConfig

TASKS = Registry("task", "--task")
register_task = TASKS.register

TASKS.add(
    "language_modeling",
    "fairseq.tasks.language_modeling:LanguageModelingTask",
    LanguageModelingConfig,
    "predict the next word of a text",
)
