"""A loaded model as an ``nn.Module``: its weights, its place, its number format.

``parameters()``, ``state_dict()``, ``named_modules()`` and the rest are torch's; weights go by ``models.0.decoder.…``.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError
from fairseq.runtime.precision import Precision, cpu_has_bfloat16

logger = logging.getLogger(__name__)
Self = TypeVar("Self", bound="EvaluationModule")

_FORMATS = (torch.float32, torch.float16, torch.bfloat16)


def checked_device(device: str | int | torch.device | None) -> torch.device:
    """Returns a device, the CPU if none is named; raises ConfigError for one that is not there."""
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as err:
        if re.fullmatch(r"cuda(:\d+)?|\d+", str(device)):
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            there = f"GPUs are counted from 0, and torch sees {count}" if count else "torch sees no GPU here; give cpu"
            raise ConfigError(f"device is {device}, but {there}") from err
        raise ConfigError(f"device must be cpu, or cuda where there is a GPU, but is {device}") from err
    return place


def checked_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Returns a number format, named as torch names it; raises ConfigError for one that is not computed in."""
    found = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if found is not None and found not in _FORMATS:
        names = ", ".join(str(name).removeprefix("torch.") for name in _FORMATS)
        raise ConfigError(f"dtype must be one of {names}, but is {dtype}")
    return found


class EvaluationModule(nn.Module):
    """One model or several, in evaluation mode for good, on one device.

    ``half()``, ``bfloat16()`` and ``to(dtype)`` choose the format that products of matrices are computed in, as
    ``--fp16`` and ``--bf16`` do; weights and sums stay in float32. A Hugging Face model is
    loaded in its format.

    Attributes:
        models: one, or those of an ensemble.
        is_loaded_in_format: the weights are in the format as well, which then stays.
    """

    is_loaded_in_format = False

    def __init__(self, models: Sequence[nn.Module], device: str | torch.device | None = None) -> None:
        super().__init__()
        self.models: Any = nn.ModuleList(models)
        self._dtype = torch.float32
        self.eval()
        self.to(checked_device(device))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._precision.device

    @property
    def dtype(self) -> torch.dtype:
        """The format that products of matrices are computed in."""
        return self._precision.dtype

    def to(self: Self, *where: Any, **named: Any) -> Self:
        """Moves the model to a device, or sets the format (``torch.float16``, …), and returns this object.

        Raises:
            ConfigError: a device that is not there, or a format that is not computed in.
        """
        device, dtype = named.get("device"), named.get("dtype")
        for word in where:
            if isinstance(word, torch.dtype):
                dtype = word
            elif isinstance(word, Tensor):
                device, dtype = word.device, word.dtype
            elif not isinstance(word, bool):  # non_blocking
                device = word
        if dtype is not None and dtype not in _FORMATS:
            names = ", ".join(map(str, _FORMATS))
            raise ConfigError(f"a model computes in {names}, but not in {dtype}; scores are float64 whatever it is")
        if self.is_loaded_in_format and dtype not in (None, self._dtype):
            name = str(dtype).removeprefix("torch.")
            raise ConfigError(
                "the weights of a Hugging Face model are loaded in the format that it computes in; load it anew:"
                f" from_pretrained(…, dtype={name!r})"
            )
        if device is not None:
            device = checked_device(device)
            super().to(device)
        else:
            device = self.device
        self._dtype = dtype if dtype is not None else self._dtype
        self._precision = precision_of(self._dtype, device)
        return self

    def cuda(self: Self, device: int | torch.device | None = None) -> Self:
        """Moves the model to the GPU, and returns this object."""
        return self.to("cuda" if device is None else device)

    def cpu(self: Self) -> Self:
        """Moves the model to the CPU, and returns this object."""
        return self.to("cpu")

    def half(self: Self) -> Self:
        """Computes in float16, on a GPU, and returns this object."""
        return self.to(torch.float16)

    def bfloat16(self: Self) -> Self:
        """Computes in bfloat16, where the device can, and returns this object."""
        return self.to(torch.bfloat16)

    def float(self: Self) -> Self:
        """Computes in float32, and returns this object."""
        return self.to(torch.float32)

    def double(self: Self) -> Self:
        """Raises ConfigError: weights are float32."""
        return self.to(torch.float64)

    def type(self: Self, dst_type: torch.dtype | str) -> Self:
        """Returns what ``to`` does with a format."""
        return self.to(dst_type)

    def train(self: Self, mode: bool = True) -> Self:
        """Returns this object, in evaluation mode.

        Raises:
            ConfigError: training mode is asked for.
        """
        if mode:
            raise ConfigError(
                "a loaded model scores and generates, and stays in evaluation mode; to train it further, use"
                " fairseq-train with --finetune-from-model CHECKPOINT"
            )
        return super().train(False)


def precision_of(dtype: torch.dtype, device: torch.device) -> Precision:
    """Returns the format in force; warns where the device is a CPU that lacks it, and computes in float32."""
    lacks = dtype == torch.float16 or (dtype == torch.bfloat16 and not cpu_has_bfloat16())
    if device.type == "cpu" and lacks:
        logger.warning("this CPU has no instructions for %s: the model computes in float32 instead", dtype)
        dtype = torch.float32
    return Precision(DeviceConfig(fp16=dtype == torch.float16, bf16=dtype == torch.bfloat16), device)
