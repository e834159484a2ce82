"""The criterion that a checkpoint was trained with."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fairseq.config.fairseq_fields import REFERENCE, filled_in
from fairseq.config.flags import resolve
from fairseq.criterions import CRITERIONS
from fairseq.criterions.build import build_criterion
from fairseq.criterions.cross_entropy import Loss


def criterion_of(
    fields: Mapping[str, Any],
    task: Any,
    device: torch.device,
    name: str | None = None,
    typed: Mapping[str, Any] | None = None,
) -> Callable[..., Loss]:
    """Returns the loss of a batch, with a checkpoint's settings.

    Args:
        fields: the checkpoint's.
        task: of the model.
        device: of the model.
        name: of another criterion than the checkpoint's.
        typed: settings that win over the checkpoint's.
    """
    name = str(name or fields.get("criterion") or "cross_entropy")
    stated = {
        key: value for key, value in fields.items() if not (isinstance(value, str) and REFERENCE.fullmatch(value))
    }
    settings = {"sentence_avg": False, **stated}
    config_class = CRITERIONS.config(name)
    config = None if config_class is None else filled_in(resolve(config_class, settings, typed or {}), settings)
    return build_criterion(
        CRITERIONS.get(name), config, task, device, sentence_avg=settings["sentence_avg"] in (True, "True")
    )
