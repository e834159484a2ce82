"""What a model is to the rest of the code: who it is, and what it answers.

B batch, T time, S scored time, C width, N scored tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class ModelIdentity:
    """Values that identify a model; None where one is not known.

    Attributes:
        dictionary_sha256: of the dictionary.
        weights_sha256: of the weights.
        vocabulary_size: ids of the dictionary.
        key_dimension: width of a context vector.
        key_type: which vectors are meant: ``last_ffn_input`` or another of ``--knn-keytype``.
        tokenizer_sha256: of the ``tokenizer.json`` of a Hugging Face model.
        bos_in_front: whether such a model reads a token in front of each row that the row does not hold.
    """

    dictionary_sha256: str | None = None
    weights_sha256: str | None = None
    vocabulary_size: int | None = None
    key_dimension: int | None = None
    key_type: str | None = None
    tokenizer_sha256: str | None = None
    bos_in_front: bool | None = None


@dataclass(frozen=True)
class DecoderOutput:
    """What the layers of a model give.

    ``scores, extra = output``, as fairseq's scripts have it, computes the scores of every word then.

    Attributes:
        features_BSC: what the output layer takes.
        ffn_input_BSC: input of the last layer's feed-forward network: the context vectors.
        scores: makes scores ``[B, S, V]`` of the features; an adaptive softmax, which has none, leaves the features.
    """

    features_BSC: Tensor
    ffn_input_BSC: Tensor
    scores: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, index: int) -> Any:
        """Returns the scores (0), or a dict with features and context vectors (1)."""
        if index in (0, -2):
            if self.scores is None:
                raise TypeError("this output has no scores; model.log_prob(output.features_BSC.flatten(0, 1)) is ln p")
            return self.scores(self.features_BSC)
        if index in (1, -1):
            return {"features": self.features_BSC, "context_vectors": self.ffn_input_BSC}
        raise IndexError(f"an output has scores (0) and more (1), but is asked for {index}")

    def __iter__(self) -> Iterator[Any]:
        return iter((self[0], self[1]))

    def __len__(self) -> int:
        return 2


class LanguageModel(Protocol):
    """A model that scores; see ``TransformerLanguageModel`` for what else one may have.

    One that has ``target_and_certainty(features_NC, target_N)`` gives the answers of the two methods in one pass.
    """

    def __call__(self, source_BT: Tensor, first: int) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on."""
        ...

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``."""
        ...

    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest log-probability and the entropy over the vocabulary, nats, ``[N]`` each."""
        ...


def normalized_probs(model: Any, scores_BSV: Tensor, *, log_probs: bool) -> Tensor:
    """Returns p or ln p of every word, float32 ``[B, S, V]``, of a model's scores.

    With an adaptive softmax, the features stand in the place of scores.
    """
    if model.has_adaptive_softmax:
        log_p: Tensor = model.log_prob(scores_BSV.flatten(0, -2)).view(*scores_BSV.shape[:-1], -1)
    else:
        log_p = scores_BSV.float().log_softmax(-1)
    return log_p if log_probs else log_p.exp()


class FairseqCalls:
    """Calls that fairseq's scripts make on a model, for every model whose ``forward`` gives a ``DecoderOutput``."""

    def extract_features(self, src_tokens: Tensor, src_lengths: Tensor | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Returns what the output layer takes, ``[B, T, C]``, and a dict with the context vectors."""
        output: DecoderOutput = self(src_tokens)  # type: ignore[operator]
        return output.features_BSC, output[1]

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """Returns p or ln p of every word, float32 ``[B, S, V]``, from the output of a call."""
        return normalized_probs(self, net_output[0], log_probs=log_probs)


def longer_rows(model: Any) -> str:
    """Returns the flag that gives a model more positions; nothing for one whose number is fixed."""
    return "" if getattr(model, "has_fixed_positions", False) else "--model-overrides \"{'max_target_positions': N}\""
