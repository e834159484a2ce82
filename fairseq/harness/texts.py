"""Texts and ids, as the harness asks for them: ids of the model's own tokenizer, or of a checkpoint's dictionary.

ids that the harness sees + shift = ids that the model reads
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fairseq.data.dictionary import EOS
from fairseq.errors import ConfigError, DataError
from fairseq.hub import LanguageModelHub
from fairseq.text.model_tokenizer import SHIFT

NEEDS = "pip install 'fairseq-knnlm[lm-eval]'"


class Texts(Protocol):
    """What makes ids of texts, and texts of ids.

    Attributes:
        shift: added to an id, it is the model's.
        tokenizer: of transformers; None where there is none.
        name: of the tokenizer.
        eot_id: what ends a text.
        prefix_id: what a text without a context follows.
        rolling_special: the ``special`` that whole documents are encoded with.
    """

    shift: int
    tokenizer: Any
    name: str
    eot_id: int
    prefix_id: int
    rolling_special: bool | None

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Returns the ids of a text; ``special`` puts what begins a text before it, None as the tokenizer does it."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text of ids."""
        ...


class TokenizerTexts:
    """Texts of a Hugging Face model.

    Args:
        directory: of the model.
        add_bos: whether the beginning's token stands before each text; as the tokenizer does it if None.
        prefix_id: what a text without a context follows; the beginning's token, else the end's, if None.
        trust_remote_code: code that lies with the model is run.

    Raises:
        ConfigError: transformers is not installed.
        DataError: there is no tokenizer, or none that names its end of a text.
    """

    shift = SHIFT
    rolling_special: bool | None = None

    def __init__(
        self,
        directory: str | Path,
        add_bos: bool | None = None,
        prefix_id: int | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as err:
            raise ConfigError(f"{directory} is a Hugging Face model, which needs transformers; {NEEDS}") from err
        try:
            own = {} if add_bos is None else {"add_bos_token": add_bos}
            self.tokenizer = AutoTokenizer.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=trust_remote_code, **own
            )
        except (OSError, ValueError, KeyError) as err:
            raise DataError(
                f"{directory} has no tokenizer that can be read ({' '.join(str(err).split())[:160]}); put the model's"
                " tokenizer.json and tokenizer_config.json there"
            ) from err
        self.name = str(directory)
        self._add_bos = add_bos
        begins, ends = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if ends is None:
            raise DataError(f"{directory}: the tokenizer names no eos_token; add it to tokenizer_config.json")
        self.eot_id = int(ends)
        self.prefix_id = int(next(idx for idx in (prefix_id, begins, ends) if idx is not None))
        self._prefix_text = self.tokenizer.decode([self.prefix_id])
        self.longest = int(self.tokenizer.model_max_length)
        self.tokenizer.model_max_length = 1 << 60  # nothing is cut, nor warned of

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Returns the ids of a text; one that begins with the token of the beginning gets no second one."""
        if special is None:
            special = False if self._prefix_text and text.startswith(self._prefix_text) else self._add_bos
        how = {} if special is None else {"add_special_tokens": special}
        return list(self.tokenizer.encode(text, **how))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text of ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special))


class DictionaryTexts:
    r"""Texts of a checkpoint of ours: words of its dictionary, and ``</s>`` where a line ends.

    Args:
        lm: the loaded model.
    """

    shift, tokenizer = 0, None
    eot_id = prefix_id = EOS
    rolling_special: bool | None = False

    def __init__(self, lm: LanguageModelHub) -> None:
        self._lm, self.name = lm, f"dict.txt {lm.dictionary.sha256()[:12]}"

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Returns the ids of a text; its last line ends only where the text ends in a new line.

        ``</s>`` stands before it unless ``special`` is False, as it does in training.
        """
        ids = self._lm.encode(text).tolist() if text else [EOS]
        ids = ids if text.endswith(("\n", "\r")) else ids[:-1]
        return ids if special is False else [EOS, *ids]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text of ids."""
        if not ids:
            return ""
        text = self._lm.decode(list(ids))
        return text if skip_special or ids[-1] != EOS else f"{text}</s>"
