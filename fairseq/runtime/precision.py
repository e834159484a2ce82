"""Device and number format: which one is in force, autocast, and loss scaling for float16."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

from fairseq.config.common import DeviceConfig, LossScaleConfig
from fairseq.errors import ConfigError

logger = logging.getLogger(__name__)
UNSCALED = LossScaleConfig()


def select_device(config: DeviceConfig, local_rank: int = 0) -> torch.device:
    """Returns the GPU of this process where there is one, else the CPU; ``--cpu`` asks for the CPU."""
    if config.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def cpu_has_bfloat16() -> bool:
    """Returns whether this CPU has instructions for products of bfloat16 matrices (AVX-512, AMX, Arm's).

    torch does not say so in public. Without them its products take a hundred times as long as in float32.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


class Precision:
    """The number format of matrix products; weights and sums stay in float32.

    ``--bf16`` is bfloat16 where the device has it. ``--fp16`` is float16 on a GPU, with loss scaling in training. A CPU
    has no fast float16, and an older one no bfloat16: there each means float32, with a warning.
    """

    def __init__(self, config: DeviceConfig, device: torch.device, scaling: LossScaleConfig = UNSCALED) -> None:
        fp16 = config.fp16 or config.memory_efficient_fp16 or scaling.amp
        bf16 = config.bf16
        typed = "--amp" if scaling.amp else "--fp16"
        if fp16 and bf16:
            raise ConfigError(f"{typed} and --bf16 exclude each other; leave one out")
        if config.memory_efficient_fp16:
            logger.warning("--memory-efficient-fp16 is taken as --fp16: master weights stay in float32")
        if fp16 and device.type == "cpu":
            faster = "--bf16 is faster on this one" if cpu_has_bfloat16() else "this one has no faster format"
            logger.warning("%s has no effect on a CPU, which computes in float32; %s", typed, faster)
            fp16 = False
        if bf16 and device.type == "cpu" and not cpu_has_bfloat16():
            logger.warning(
                "--bf16 has no effect: this CPU has no instructions for it, and computes in float32, its fastest format"
            )
            bf16 = False
        self.device = device
        self.dtype = torch.float16 if fp16 else torch.bfloat16 if bf16 else torch.float32
        self.min_loss_scale, self.lowest_loss_scale = config.min_loss_scale, scaling.threshold_loss_scale
        window = (scaling.amp_scale_window if scaling.amp else None) or config.fp16_scale_window or 2000
        init_scale = scaling.amp_init_scale if scaling.amp else config.fp16_init_scale
        self.scaler = torch.amp.GradScaler(device.type, init_scale=init_scale, growth_interval=window, enabled=fp16)

    @property
    def name(self) -> str:
        """The format's name: float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context in which matrix products use the format."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def adapt_loss_scale(self) -> bool:
        """Raises or lowers the loss scale after a step; returns False where there was an overflow, and no step.

        Raises:
            ConfigError: the scale has fallen below ``--min-loss-scale``.
        """
        before = self.scaler.get_scale()
        self.scaler.update()
        after = self.scaler.get_scale()
        if self.lowest_loss_scale is not None and after < self.lowest_loss_scale and after < before:
            self.scaler.update(self.lowest_loss_scale)
        if self.scaler.get_scale() < self.min_loss_scale:
            raise ConfigError(
                f"the loss scale fell below --min-loss-scale {self.min_loss_scale}: the loss diverges;"
                " lower --lr, or train with --bf16 or in float32"
            )
        return after >= before
