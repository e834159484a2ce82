"""What can be trained with ``--ddp-backend fully_sharded``, and how a checkpoint comes into shares of a model."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from fairseq.checkpoints.format import Checkpoint
from fairseq.criterions.by_sample import SampleCriterion
from fairseq.errors import ConfigError
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.runtime.precision import Precision
from fairseq.train.config import FULLY_SHARDED
from fairseq.train.trainer import Trainer

# Optimizers that step each number by itself, so that a share of a weight suffices.
OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamax", "adamw", "nag", "sgd")


def require_package() -> None:
    """Raises ConfigError where the package is not installed that checkpoints in shards are written with."""
    if find_spec("safetensors") is None:
        raise ConfigError(
            f"--ddp-backend {FULLY_SHARDED} needs the package safetensors, which is not installed; pip install"
            " 'fairseq-knnlm[safetensors]'"
        )


def layers_of(model: Any, optimizer: str, precision: Precision) -> list[nn.Module]:
    """Returns the layers of a model, which processes share out one by one.

    Raises:
        ConfigError: the model or the optimizer cannot be shared out.
    """
    if not isinstance(model, TransformerLanguageModel):
        raise _refused(f"{type(model).__name__}, whose layers are not known", "leave it out")
    if model.decoder.layerdrop:
        raise _refused(
            "--decoder-layerdrop: each process would leave out other layers, and wait for others for ever",
            "leave one of them out",
        )
    if optimizer not in OPTIMIZERS:
        raise _refused(
            f"--optimizer {optimizer}, which steps by more than a share of a weight", f"give {', '.join(OPTIMIZERS)}"
        )
    if precision.scaler.is_enabled():
        raise _refused("float16: processes would not see each other's overflows", "give --bf16")
    return list(model.decoder.layers)


def require_one_pass(criterion: Any, name: str) -> None:
    """Raises ConfigError for a plugin's class of a criterion, which may pass a batch through the model several times.

    Processes whose batches have run out pass through once for each batch of the others.
    """
    if isinstance(criterion, SampleCriterion) and not type(criterion.criterion).__module__.startswith("fairseq."):
        raise _refused(f"--criterion {name}, a plugin's class", "give one of this program, or a plugin's function")


def _refused(what: str, remedy: str) -> ConfigError:
    return ConfigError(f"--ddp-backend {FULLY_SHARDED} does not go with {what}; {remedy}")


def layout_of(trainer: Trainer) -> dict[str, Tensor]:
    """Returns the tensors whose layout a checkpoint takes on: none where the model is whole.

    They are ``model.NAME`` of each weight, and ``optimizer.N`` of the optimizer's parameter N.
    """
    if not trainer.group.is_sharded:
        return {}
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    layout = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    return layout | {f"optimizer.{number}": parameter for number, parameter in enumerate(parameters)}


def in_shares(checkpoint: Checkpoint, layout: Mapping[str, Tensor]) -> Checkpoint:
    """Returns a checkpoint of which this process keeps its share; the same one where the model is whole."""
    if not layout:
        return checkpoint
    from fairseq.runtime.sharding import laid_out_as

    state = {name: laid_out_as(tensor, layout.get(f"model.{name}")) for name, tensor in checkpoint.state.items()}
    optimizer = checkpoint.optimizer_state
    if optimizer is not None and "state" in optimizer:
        moments = {
            number: {
                name: laid_out_as(value, layout.get(f"optimizer.{number}")) if isinstance(value, Tensor) else value
                for name, value in of_one.items()
            }
            for number, of_one in optimizer["state"].items()
        }
        optimizer = {**optimizer, "state": moments}
    return replace(checkpoint, state=state, optimizer_state=optimizer)
