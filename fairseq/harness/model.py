"""The model ``fairseq-knnlm`` of the lm-evaluation-harness.

lm = HarnessModel(path="DIR", dstore_filename="store/dstore", indexfile="store/knn.index", lmbda=0.25)
lm_eval.simple_evaluate(model=lm, tasks=["wikitext"])             # with neighbours
lm_eval.simple_evaluate(model=lm.alone(), tasks=["wikitext"])     # the model alone, from the same forward passes
"""

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import lm_eval.models  # noqa: F401 # the harness registers its own only while there are none
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from fairseq.errors import ConfigError
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.harness.continuing import Continuation, Continuer
from fairseq.harness.model_args import HarnessConfig
from fairseq.harness.opening import open_model
from fairseq.harness.scoring import Answer, Request, Scorer
from fairseq.hub.text_settings import text_settings
from fairseq.runtime.progress import Progress

logger = logging.getLogger(__name__)
NAME = "fairseq-knnlm"
_Encoded = tuple[tuple[str, str], list[int], list[int]]
_ONE: ContextVar["list[HarnessModel] | None"] = ContextVar("one model", default=None)


@contextmanager
def one_model() -> Iterator[None]:
    """Has the harness open its model once: the first time as it is named, from then on without neighbours."""
    token = _ONE.set([])
    try:
        yield
    finally:
        _ONE.reset(token)


@register_model(NAME)
class HarnessModel(TemplateLM):  # type: ignore[misc] # the harness has no types
    """A model of ours, mixed with neighbours where a datastore is named.

    Args:
        args: ``path``, ``dstore_filename``, ``indexfile``, ``k``, ``lmbda``, ``knn_temp`` and the other fields of
            ``HarnessConfig``, as in ``--model_args``.

    Raises:
        ConfigError: no such setting, or one out of range.
        FairseqError: a file that cannot be read, or belongs to another model.
    """

    def __init__(self, **args: Any) -> None:
        super().__init__()
        config = HarnessConfig.of(args, text_settings())
        self.opened = opened = open_model(config)
        self.tokenizer = opened.texts.tokenizer
        self._scorer = Scorer(
            opened.model,
            opened.precision,
            opened.memory,
            opened.lmbda,
            longest_row=self.max_length,
            batch_size=config.batch_size,
            opening=opened.opening,
        )
        self._mixed = opened.memory is not None and opened.lmbda > 0
        # What the model alone has said, by request; the answers of both come from one forward pass.
        self._of_model: dict[bytes, Answer] = {}

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "HarnessModel":
        """Returns the model that ``--model_args`` and other flags of the harness's name."""
        opened = _ONE.get()
        if opened:
            return opened[0].alone()
        weaker = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if str(weaker.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
            del weaker["device"]  # the harness's default, whatever there is
        model = cls(**{**weaker, **arg_dict})
        if opened is not None:
            opened.append(model)
        return model

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "HarnessModel":
        """Returns the same, of ``name=value,…``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def alone(self) -> "HarnessModel":
        """Returns the model without neighbours; what this one has scored is not computed again."""
        other = copy.copy(self)
        other._mixed = False
        other._scorer = self._scorer.alone()
        return other

    @property
    def has_neighbours(self) -> bool:
        """Whether neighbours are mixed in."""
        return self._mixed

    @property
    def eot_token_id(self) -> int:
        """Id of what ends a text."""
        return self.opened.texts.eot_id

    @property
    def prefix_token_id(self) -> int:
        """Id of what a text without a context follows."""
        return self.opened.texts.prefix_id

    @property
    def max_length(self) -> int:
        """Most tokens that the model reads at once."""
        return self.opened.longest_row

    @property
    def max_gen_toks(self) -> int:
        """Most tokens of a text that is generated, where its task says nothing."""
        return self.opened.config.max_gen_toks

    @property
    def batch_size(self) -> int | str:
        """Rows that the model reads at once."""
        return self.opened.config.batch_size or "auto"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.opened.precision.device

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, by which the harness keeps requests."""
        return self.opened.texts.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Returns what results say of the model."""
        info = self.opened.info()
        return info if self._mixed else {**info, "neighbours": None}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Returns the ids of a text."""
        return self.opened.texts.encode(string, add_special_tokens)

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Returns the text of ids."""
        return self.opened.texts.decode(tokens, skip_special=skip_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a conversation as the model's chat template has it.

        Raises:
            ConfigError: there is none.
        """
        if self.tokenizer is None or not self.tokenizer.chat_template:
            raise ConfigError(
                f"--apply_chat_template needs a chat template, but {self.opened.config.path} has none; leave it out"
            )
        from jinja2.exceptions import TemplateError

        def applied(turns: list[dict[str, str]]) -> str:
            how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **how))

        try:
            return applied(chat_history)
        except TemplateError as err:
            turns = [turn for turn in chat_history if turn["role"] != "system"]
            if len(turns) == len(chat_history):
                raise ConfigError(f"the chat template of {self.opened.config.path} cannot be applied ({err})") from err
            logger.warning("the chat template takes no system role (%s): conversations go without it", err)
            return applied(turns)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns ln p of each continuation, and whether it is the most probable one at each token."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: list[_Encoded], **kwargs: Any) -> list[tuple[float, bool]]:
        first = [self.prefix_token_id]  # of a context that was white space, all of which the harness moves behind it
        wanted = [Request(self._here(context or first), self._here(rest)) for _, context, rest in requests]
        keys = [_key("loglikelihood", request.context, request.continuation) for request in wanted]
        found = self._answers(keys, wanted, greedy=True)
        answers = [(answer.log_p, answer.is_greedy) for answer in found]
        for (words, _, _), pair in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", words, pair)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Returns ln p of each whole document: in windows of ``max_length`` tokens, each token scored once."""
        texts = self.opened.texts
        windows: list[Request] = []
        documents = [request.args[0] for request in requests]
        counts = []
        for document in documents:
            ids = texts.encode(document, texts.rolling_special)
            pairs = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            some = [Request(*map(self._here, make_disjoint_window(pair))) for pair in pairs]
            windows += some
            counts.append(len(some))
        keys = [_key("rolling", window.context, window.continuation) for window in windows]
        answers = iter(self._answers(keys, windows, greedy=False))
        totals = [sum((next(answers).log_p for _ in range(count)), 0.0) for count in counts]
        for document, total in zip(documents, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (document,), total)
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Returns what follows each context, up to its task's ``until``, by the mixture."""
        opened, memory = self.opened, [(self.opened.memory, self.opened.lmbda)] if self._mixed else []
        continuer = Continuer(
            opened.model,
            opened.precision,
            opened.texts,
            NextTokenMixture(memory),
            end_ids=opened.end_ids,
            longest_row=self.max_length,
            opening=opened.opening,
            batch_size=opened.config.batch_size,
        )
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        found = [""] * len(requests)
        seed = torch.initial_seed() % (1 << 63)
        with Progress("generate", len(requests), "requests") as progress:
            for numbers in groups.values():
                how = Continuation.of(requests[numbers[0]].args[1], self.max_gen_toks)
                prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
                seeds = [(seed, number) for number in numbers]
                texts = continuer.continued(prompts, how, seeds, progress.advance)
                for number, text in zip(numbers, texts, strict=True):
                    found[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return found

    def _answers(self, keys: list[bytes], requests: list[Request], *, greedy: bool) -> list[Answer]:
        """Returns what is known of requests, and computes what is not; the model's own side is kept."""
        todo = [number for number, key in enumerate(keys) if self._mixed or key not in self._of_model]
        found: dict[int, Answer] = {}
        with Progress("score", len(todo), "requests", shown=bool(todo)) as progress:
            pairs = self._scorer.score([requests[number] for number in todo], greedy=greedy, advance=progress.advance)
        for number, (model, mixture) in zip(todo, pairs, strict=True):
            self._of_model[keys[number]] = model
            found[number] = mixture if self._mixed else model
        return [found[number] if number in found else self._of_model[key] for number, key in enumerate(keys)]

    def _here(self, ids: Sequence[int]) -> list[int]:
        return [idx + self.opened.texts.shift for idx in ids]


def _key(kind: str, context: Sequence[int], continuation: Sequence[int]) -> bytes:
    return hashlib.sha256(f"{kind} {list(context)} {list(continuation)}".encode()).digest()
