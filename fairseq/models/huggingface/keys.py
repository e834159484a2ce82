"""The vector that is a key, caught by a hook while a model of transformers runs.

B rows, T time, C width of the layers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fairseq.errors import CheckpointError
from fairseq.models.huggingface.structure import (
    attention_of,
    family_of,
    feed_forward_of,
    first_tensor,
    layers_of,
    residual_reader,
)
from fairseq.models.key_types import KeyType

PROBE_TOKENS = 5


def probe_ids(model: Any) -> Tensor:
    """Returns a few ids ``[2, 5]`` of a model's vocabulary, on its device."""
    size = int(model.get_input_embeddings().num_embeddings)
    ids_BT = torch.arange(2 * PROBE_TOKENS, device=model.device).view(2, PROBE_TOKENS)
    return ids_BT % size


class KeyCatcher:
    """Catches the keys of one type in each run of a model.

    Args:
        model: of transformers.
        key_type: which vectors, as ``KeyType.of`` gives it for this model.

    Raises:
        CheckpointError: the model has no such part.
    """

    def __init__(self, model: Any, key_type: KeyType) -> None:
        self.key_type, self._family = key_type, family_of(model)
        self._caught: list[Tensor | None] = []
        self._handle: Any = None
        if key_type.kind == "final_norm":
            return
        layer = layers_of(model)[key_type.layer]
        if key_type.kind == "block_output":
            self._handle = layer.register_forward_hook(self._keep_output)
        else:
            reader = _reader(model, layer, key_type.kind)
            self._handle = reader.register_forward_pre_hook(self._keep_input, with_kwargs=True)

    def remove(self) -> None:
        """Takes the hook away."""
        if self._handle is not None:
            self._handle.remove()

    def forget(self) -> None:
        """Drops what was caught before, in a run that was broken off or was none of ours."""
        self._caught.clear()

    def take(self, hidden_BTC: Tensor) -> Tensor:
        """Returns the keys ``[B, T, C]`` of the run whose last hidden state is ``hidden_BTC``.

        Raises:
            CheckpointError: the part of the model was not run once, or has read something else.
        """
        if self.key_type.kind == "final_norm":
            return hidden_BTC
        caught, self._caught = self._caught, []
        rows, columns = hidden_BTC.shape[:2]
        key = caught[0] if len(caught) == 1 else None
        if key is None or key.numel() % (rows * columns) or key.shape[0] not in (rows, rows * columns):
            shapes = [None if tensor is None else list(tensor.shape) for tensor in caught]
            raise CheckpointError(
                f"--knn-keytype {self.key_type.name}: one tensor for {rows} rows of {columns} tokens was expected of"
                f" the {self._family} model, but it gave {shapes}; give another --knn-keytype"
            )
        return key.reshape(rows, columns, -1)  # OPT has all rows in one

    def _keep_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._caught.append(first_tensor(args, kwargs))

    def _keep_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._caught.append(output[0] if isinstance(output, (tuple, list)) else output)


def _reader(model: Any, layer: nn.Module, kind: str) -> nn.Module:
    if kind == "residual":
        return residual_reader(model, layer, probe_ids(model))
    return feed_forward_of(layer) if kind == "ffn_input" else attention_of(layer)
