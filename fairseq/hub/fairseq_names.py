"""What fairseq's scripts look for on a loaded model: ``lm.task``, ``lm.cfg``, ``lm.src_dict`` and others."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fairseq.config.flags import Namespace, coerce
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, refuse_unknown
from fairseq.hub.text_module import TextModule

# Arguments of fairseq's generate and score that change nothing here, and their values of which that is true.
_WITHOUT_EFFECT: Mapping[str, Any] = {
    "verbose": (True, False),
    "skip_invalid_size_inputs": (True, False),
    "prefix_allowed_tokens_fn": (None,),
    "inference_step_args": (None, {}),
    "shorten_method": ("none", "truncate"),  # a text may be of any length
}
_LINES = ("replace_newlines_with_eos", "replace_newline_with_eos")


def without_idle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a call of fairseq's without those that change nothing.

    Raises:
        ConfigError: one of them has a value that would change something.
    """
    for name in _WITHOUT_EFFECT.keys() & settings.keys():
        if settings[name] not in _WITHOUT_EFFECT[name]:
            expected = " or ".join(map(str, _WITHOUT_EFFECT[name]))
            raise ConfigError(f"{name} must be {expected}, for it changes nothing here; leave it out")
    return {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}


def ends_lines(settings: Mapping[str, Any]) -> bool:
    """Returns whether new lines end lines, by the settings of a call of fairseq's ``score``.

    Raises:
        ConfigError: there is another setting than that and those that change nothing.
    """
    given = without_idle(settings)
    refuse_unknown(given, [*_LINES, "context_window", "eos"], "scoring a text")
    return all(coerce(value, bool, name) for name, value in given.items())


class FairseqNames(TextModule):
    """The names; ``task`` and ``args`` are set by ``from_pretrained``.

    Attributes:
        task: with its ``source_dictionary``.
        args: the settings of the checkpoint, the first of an ensemble, and those that were given in their place.
    """

    task: Any = None
    args: Namespace = Namespace()

    @property
    def cfg(self) -> Namespace:
        """The same, with fairseq's groups ``model`` and ``task``, which hold all of them."""
        return Namespace(**{**vars(self.args), "model": self.args, "task": self.args})

    @property
    def src_dict(self) -> Dictionary:
        """The dictionary."""
        return self.dictionary

    @property
    def tgt_dict(self) -> Dictionary:
        """The dictionary."""
        return self.dictionary

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, None without one."""
        return self.pipeline.tokenizer

    @property
    def bpe(self) -> Any:
        """What makes subwords of words, None where words are not cut."""
        return self.pipeline.bpe

    @property
    def max_positions(self) -> int:
        """The longest row in tokens, of every model; ``score`` cuts longer texts."""
        return int(min(model.max_positions for model in self.models))

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError, which names what there is, for what neither torch nor this class has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            there = sorted(word for word in {*dir(type(self))} - {*dir(nn.Module)} if not word.startswith("_"))
            raise AttributeError(
                f"a loaded model has no {name}; it has {', '.join([*there, 'models', 'dictionary', 'knn'])}, and what"
                " a torch.nn.Module has"
            ) from None
