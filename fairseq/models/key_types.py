"""Names of the vectors that can be keys, and what a name means.

NAME          of the last layer        NAME:N   of layer N, counted from 0; -1 is the last, -2 the one before
ffn_input         what the feed-forward network of a layer reads; of the last layer, recorded as last_ffn_input
attention_input   what its attention reads
residual          the residual stream in front of the feed-forward network: what the norm there reads
block_output      what the layer hands on
final_norm        what the output layer reads; it belongs to no layer
"""

import re
from dataclasses import dataclass

from fairseq.errors import ConfigError, did_you_mean

LAST_FFN_INPUT = "last_ffn_input"
KINDS = ("ffn_input", "attention_input", "residual", "block_output", "final_norm")
_FLAG = "--knn-keytype"


@dataclass(frozen=True)
class KeyType:
    """Which vector of a model is the key.

    Attributes:
        kind: one of ``KINDS``.
        layer: from 0; negative counts from the end.
    """

    kind: str = "ffn_input"
    layer: int = -1

    @property
    def name(self) -> str:
        """What is recorded: without a layer for the last one, and ``last_ffn_input`` for its feed-forward input."""
        if self.layer != -1:
            return f"{self.kind}:{self.layer}"
        return LAST_FFN_INPUT if self.kind == "ffn_input" else self.kind

    def of(self, num_layers: int) -> "KeyType":
        """Returns the same of a model with so many layers: the last one is -1, every other counts from 0.

        Raises:
            ConfigError: there is no such layer.
        """
        layer = self.layer + num_layers if self.layer < 0 else self.layer
        if not 0 <= layer < num_layers:
            raise ConfigError(
                f"{_FLAG} {self.name} names layer {self.layer}, but the model has {num_layers} layers; give a number"
                f" from 0 to {num_layers - 1}"
            )
        return KeyType(self.kind, -1 if layer == num_layers - 1 else layer)


def parse_key_type(name: str) -> KeyType:
    """Returns what a name such as ``ffn_input:15`` means.

    Raises:
        ConfigError: it means nothing.
    """
    kind, colon, number = name.partition(":")
    if kind == LAST_FFN_INPUT and not colon:
        return KeyType()
    if kind not in KINDS:
        raise ConfigError(
            f"{_FLAG} must be one of {', '.join((LAST_FFN_INPUT, *KINDS))}, with :LAYER behind it for another layer"
            f" than the last, but is {name[:80]!r}{did_you_mean(kind, KINDS)}"
        )
    if not colon:
        return KeyType(kind)
    if kind == "final_norm":
        raise ConfigError(f"{_FLAG} {name[:80]}: final_norm belongs to no layer; leave the number out")
    if re.fullmatch(r"-?\d{1,9}", number) is None:
        raise ConfigError(f"{_FLAG} must end in the number of a layer, but is {name[:80]!r}; such as {kind}:3")
    return KeyType(kind, int(number))
