"""A model of transformers behind the protocol of ``fairseq.models.protocol``.

    ids here ─ less 4 ─ the model's layers ─┬─ last hidden state ─ head ─ ln p, the columns of fairseq's specials −∞
                                            └─ the vector that is a key, caught by a hook

B rows, T time, S scored time, C width, N columns, V words of the dictionary: the head's and fairseq's four.
"""

from dataclasses import replace
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.huggingface.head import CLOSE, CLOSE_IN_HALF, Head
from fairseq.models.huggingface.ids import Reader, columns_from
from fairseq.models.huggingface.keys import PROBE_TOKENS, KeyCatcher, probe_ids
from fairseq.models.huggingface.row_cache import RowCache, window_fits
from fairseq.models.huggingface.structure import body_of, layers_of
from fairseq.models.key_types import LAST_FFN_INPUT, KeyType, parse_key_type
from fairseq.models.protocol import DecoderOutput, FairseqCalls
from fairseq.text.model_tokenizer import SHIFT

_NO_END = 1 << 20  # positions of a model that states no limit


class HuggingFaceModel(FairseqCalls, nn.Module):
    """A causal language model of transformers.

    Args:
        model: of ``AutoModelForCausalLM``, in evaluation mode.
        opening_id: id here of what the model reads where a text has no token yet; None where it has no such token.
        key_type: which vector is the key (fairseq/models/key_types.py).
        adds_bos: the opening token stands in front of each row, and no column of it comes back.

    Raises:
        CheckpointError: the model's parts are not found, or its scores are not those of its own run. A model without a
            feed-forward network that is known by its name can be used: ``require_keys`` says so where keys are needed.
        ConfigError: it has no such keys.
    """

    has_adaptive_softmax = False
    has_fixed_positions = True

    def __init__(
        self, model: Any, opening_id: int | None, key_type: str = LAST_FFN_INPUT, *, adds_bos: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.reader = Reader(opening_id, adds_bos and opening_id is not None)
        self.head = Head(model)
        self.num_named: int | None = None  # ids that the dictionary in use has a word for
        self._keys: KeyCatcher | None = None
        self._is_cached: bool | None = None
        self._no_keys: CheckpointError | None = None
        try:
            self.use_keys(key_type)
        except CheckpointError as err:
            if key_type != LAST_FFN_INPUT:  # which was asked for
                raise
            self.use_keys("final_norm")
            self._no_keys = err

    @property
    def opening_id(self) -> int | None:
        """Id here of what the model reads where a text has no token yet; None where it has no such token."""
        return self.reader.opening_id

    @property
    def key_type(self) -> str:
        """Which vector is the key, as it is recorded."""
        assert self._keys is not None
        return self._keys.key_type.name

    def use_keys(self, key_type: str) -> None:
        """Makes the keys those of a type, from now on.

        Raises:
            CheckpointError: the part of the model is not found.
            ConfigError: there is no such type, or no such layer.
        """
        catcher = KeyCatcher(self.model, self._parsed(key_type))
        before, self._keys = self._keys, catcher
        try:
            with torch.no_grad():
                self.key_dimension = int(self._run(probe_ids(self.model))[1].shape[2])
        except BaseException:
            catcher.remove()
            self._keys = before
            raise
        self._no_keys = None
        if before is not None:
            before.remove()

    def require_keys(self) -> None:
        """Raises CheckpointError where no type of key was asked for and the model has not what is the key by default.

        Its vectors are those that the output layer reads then, as ``key_type`` says.
        """
        if self._no_keys is not None:
            raise self._no_keys

    def recorded_key_type(self, key_type: str) -> str:
        """Returns the name that a type is recorded by: ``ffn_input:1`` of two layers is ``last_ffn_input``.

        Raises:
            CheckpointError: the model's layers are not found.
            ConfigError: there is no such type, or no such layer.
        """
        return self._parsed(key_type).name

    def _parsed(self, key_type: str) -> KeyType:
        found = parse_key_type(key_type)
        return found if found.kind == "final_norm" else found.of(len(layers_of(self.model)))

    @property
    def vocabulary_size(self) -> int:
        """Words that are scored, fairseq's four included."""
        return self.head.num_words + SHIFT

    @property
    def max_positions(self) -> int:
        """Longest row in tokens, as the model's configuration states it."""
        return self.longest_row or _NO_END

    @property
    def longest_row(self) -> int | None:
        """The same; None where it states no limit."""
        stated = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(stated) - self.reader.adds_bos if stated else None

    def put_bos_in_front(self) -> None:
        """Has the opening token stand in front of each row, as a tokenizer has it that adds one.

        Raises:
            ConfigError: the model has no such token.
        """
        if self.reader.opening_id is None:
            raise ConfigError("--add-bos-token: the model has no token that begins or ends a text; leave it out")
        self.reader = replace(self.reader, adds_bos=True)

    def forward(self, src_tokens: Tensor, first: int = 0, src_lengths: Tensor | None = None) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on, for ids ``[B, T]``, right-padded with anything.

        Nothing depends on ``src_lengths``.

        Raises:
            ConfigError: a text has no beginning (``</s>``), and the model no token for it.
        """
        ids_BT, skip_B = self.reader.model_ids(src_tokens)
        hidden_BTC, key_BTC = self._run(ids_BT)
        columns = skip_B, first, src_tokens.shape[1]
        return DecoderOutput(columns_from(hidden_BTC, *columns), columns_from(key_BTC, *columns), self._scores)

    def _scores(self, features_BSC: Tensor) -> Tensor:
        """Returns the scores of every word, float32 ``[B, S, V]``; −∞ for fairseq's four."""
        logits_NV = self.head.logits(features_BSC.flatten(0, 1))
        return pad(logits_NV, (SHIFT, 0), value=-torch.inf).view(*features_BSC.shape[:2], -1)

    def _run(self, ids_BT: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        """Returns the last hidden state and the keys ``[B, T, C]`` for ids as the model counts them."""
        assert self._keys is not None
        self._keys.forget()
        # The weights have the dtype that was asked for, and transformers casts what needs more: no autocast beside it.
        with torch.autocast(ids_BT.device.type, enabled=False):
            hidden_BTC = body_of(self.model)(ids_BT, **{"use_cache": False, **more}).last_hidden_state
        return hidden_BTC, self._keys.take(hidden_BTC)

    def log_prob(self, features_NC: Tensor) -> Tensor:
        """Returns ln p of every word, float32 ``[N, V]``; −∞ for fairseq's four and for rows that are no word's."""
        logits_NV = self.head.logits(features_NC)
        log_p_NV = logits_NV - logits_NV.logsumexp(1, keepdim=True)  # log_softmax rounds 1e-5 off, of many words
        specials_N4 = log_p_NV.new_full((len(log_p_NV), SHIFT), -torch.inf)
        log_p_NV = torch.cat([specials_N4, log_p_NV], 1)
        if self.num_named is not None:  # a head is often padded
            log_p_NV[:, self.num_named :] = -torch.inf
        return log_p_NV

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns ln p(target), float32 ``[N]``; −∞ for fairseq's four."""
        log_p_N = self.head.target_log_prob(features_NC, (target_N - SHIFT).clamp(min=0))
        return torch.where(target_N < SHIFT, -torch.inf, log_p_N)

    def target_and_certainty(self, features_NC: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ln p(target), the largest ln p and the entropy, nats, float32 ``[N]`` each, in one pass."""
        found = self.head.target_and_certainty(features_NC, (target_N - SHIFT).clamp(min=0))
        return (torch.where(target_N < SHIFT, -torch.inf, found[0]), *found[1:])

    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest ln p and the entropy, nats, float32 ``[N]`` each."""
        nothing_N = torch.zeros(len(features_NC), dtype=torch.int64, device=features_NC.device)
        return self.head.target_and_certainty(features_NC, nothing_N)[1:]

    def new_cache(self, num_rows: int, num_slots: int, dtype: torch.dtype = torch.float32) -> RowCache | None:
        """Returns an empty cache for rows of at most ``num_slots`` tokens; None where rows must be read anew.

        That is so of models that are recurrent or see a window, unless it is as long as the rows, and of those whose
        attention cannot be told which slots of a row are its own. ``dtype`` is the model's own whatever is asked for.
        """
        num_slots += self.reader.adds_bos
        if not window_fits(self.model, num_slots):
            return None
        if self._is_cached is None:
            self._is_cached = self._try_cache()
        return RowCache(num_rows, self.model.device) if self._is_cached else None

    def extend(self, new_BS: Tensor, size_B: Tensor, cache: RowCache) -> DecoderOutput:
        """Returns the outputs of new columns ``[B, S]``, right-padded after ``size_B``, behind the cached ones."""
        ids_BS, skip_B = (self.reader if cache.is_empty else self._reader_behind).model_ids(new_BS)
        there_B = size_B if skip_B is None else size_B + skip_B
        hidden_BSC, key_BSC = self._extend(ids_BS, there_B, cache)
        columns = skip_B, 0, new_BS.shape[1]
        return DecoderOutput(columns_from(hidden_BSC, *columns), columns_from(key_BSC, *columns))

    @property
    def _reader_behind(self) -> Reader:
        """How ids are read that others stand before."""
        return Reader(self.reader.opening_id)

    def _extend(self, ids_BS: Tensor, size_B: Tensor, cache: RowCache) -> tuple[Tensor, Tensor]:
        inputs = cache.inputs(ids_BS.shape[1], size_B, self.head.dtype)
        found = self._run(ids_BS, use_cache=True, **{self._cache_name: cache.keys_and_values}, **inputs)
        cache.advance(size_B)
        return found

    @cached_property
    def _cache_name(self) -> str:
        """What this release of transformers calls the cache."""
        return "cache" if "cache" in signature(body_of(self.model).forward).parameters else "past_key_values"

    @torch.no_grad()
    def _try_cache(self) -> bool:
        """Returns whether rows of several lengths, read in parts, give what they give when read at once."""
        ids_BT = probe_ids(self.model)
        size_B = torch.tensor([2, PROBE_TOKENS - 1], device=ids_BT.device)
        cache = RowCache(2, ids_BT.device)
        try:
            self._extend(ids_BT[:, :-1], size_B, cache)
            cache.reorder([1, 0])
            new_B1 = ids_BT.gather(1, size_B[:, None])
            self._extend(new_B1.flip(0), torch.ones_like(size_B), cache)
            cache.reorder([1, 0])
            found_BC = self._extend(new_B1.roll(1, 0), torch.ones_like(size_B), cache)[0][:, 0]
        except Exception:  # whatever a family's code says of masks, positions or caches that it does not take
            return False
        whole_BT = torch.cat([ids_BT, ids_BT[:, :1]], 1)
        rows_B = torch.arange(2, device=ids_BT.device)
        whole_BT[rows_B, size_B + 1] = new_B1.roll(1, 0)[:, 0]
        wanted_BC = self._run(whole_BT)[0][rows_B, size_B + 1]
        largest = float(wanted_BC.abs().max())
        return float((found_BC - wanted_BC).abs().max()) <= CLOSE.get(self.head.dtype, CLOSE_IN_HALF) * largest
