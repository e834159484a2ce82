"""``--model_args`` of the model ``fairseq-knnlm``, in a module that does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fairseq.errors import ConfigError, refuse_unknown, shown
from fairseq.knn.config import KNNSettings

FORMATS = ("float32", "bfloat16", "float16")
BATCH_AUTO = "auto"
# Flags of the commands that have another name in Python.
_NEIGHBOURS = {"dstore_size": "rows", "dstore_fp16": "key_fp16"}
_OTHER_WORDS = {
    **dict.fromkeys(("pretrained", "model", "checkpoint"), "path"),
    **dict.fromkeys(("dstore_mmap", "datastore", "dstore"), "dstore_filename"),
    **dict.fromkeys(("index", "faiss_index"), "indexfile"),
    "lambda": "lmbda",
}


@dataclass(frozen=True)
class HarnessConfig:
    """Model and neighbours.

    Attributes:
        path: directory of a Hugging Face model, or a checkpoint of ours.
        data: directory with the checkpoint's ``dict.txt``; as ``from_pretrained`` finds it if None.
        dstore_filename: prefix of the datastore; None for the model alone.
        indexfile: of its index.
        neighbours: k, lmbda, knn_temp, probe and the other settings of ``knnlm.KNN``.
        device: ``cpu``, ``cuda``, ``cuda:1``; the GPU where there is one if None.
        dtype: of the model's weights, one of ``FORMATS``.
        batch_size: rows at once; ``auto`` fills a number of tokens.
        max_length: most tokens that the model reads at once; what it has positions for if None.
        max_gen_toks: most tokens of a text that is generated, where its task says nothing.
        add_bos_token: the token of the beginning stands before each text; as its tokenizer does it if None.
        prefix_token_id: what a text without a context follows; the token of the beginning, else that of the end.
        trust_remote_code: code that lies with a Hugging Face model is run.
        text: settings of raw text of a checkpoint of ours: ``tokenizer``, ``bpe``, ``sentencepiece_model``, …
    """

    path: str
    data: str | None = None
    dstore_filename: str | None = None
    indexfile: str | None = None
    neighbours: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str = "float32"
    batch_size: int | None = None
    max_length: int | None = None
    max_gen_toks: int = 256
    add_bos_token: bool | None = None
    prefix_token_id: int | None = None
    trust_remote_code: bool = False
    text: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_neighbours(self) -> bool:
        """Whether a datastore is named."""
        return self.dstore_filename is not None

    @staticmethod
    def of(args: Mapping[str, Any], text_settings: tuple[str, ...] = ()) -> "HarnessConfig":
        """Returns what ``--model_args`` say.

        Raises:
            ConfigError: no such setting, one out of range, or one without another that it needs.
        """
        given = {_OTHER_WORDS.get(name, name): value for name, value in args.items() if value is not None}
        given.pop("max_batch_size", None)  # of the harness's own flags
        own = [item.name for item in fields(HarnessConfig) if item.name not in ("neighbours", "text")]
        knn = [*KNNSettings.__annotations__, *_NEIGHBOURS]
        refuse_unknown(given, [*own, *knn, *text_settings], "--model_args of fairseq-knnlm")
        if "path" not in given:
            raise ConfigError("--model_args must name a model; give path=DIR of a Hugging Face model, or a checkpoint")
        neighbours = {_NEIGHBOURS.get(name, name): given[name] for name in knn if name in given}
        _check_neighbours(given, neighbours)
        text = {name: given[name] for name in text_settings if name in given}
        rest = {name: given[name] for name in own if name in given}
        for name in ("path", "data", "dstore_filename", "indexfile", "device"):
            if name in rest:
                rest[name] = str(rest[name])
        rest["batch_size"] = _batch_size(rest.get("batch_size"))
        for name, least in (("max_length", 1), ("max_gen_toks", 1), ("prefix_token_id", 0)):
            if name in rest and (type(rest[name]) is not int or rest[name] < least):
                raise ConfigError(f"{name} must be a whole number from {least} on, but is {shown(rest[name])}")
        for name in ("add_bos_token", "trust_remote_code"):
            if name in rest and type(rest[name]) is not bool:
                raise ConfigError(f"{name} must be True or False, but is {shown(rest[name])}")
        rest["dtype"] = _format(str(rest.get("dtype", "float32")))
        return HarnessConfig(neighbours=neighbours, text=text, **rest)


def without_neighbours(args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``--model_args`` for the model alone: those of the datastore, and of how it is searched, left out."""
    knn = {"dstore_filename", "indexfile", *KNNSettings.__annotations__, *_NEIGHBOURS}
    return {name: value for name, value in args.items() if _OTHER_WORDS.get(name, name) not in knn}


def _check_neighbours(given: Mapping[str, Any], neighbours: Mapping[str, Any]) -> None:
    names = [name for name in ("dstore_filename", "indexfile") if name in given]
    if len(names) == 1:
        missing = "indexfile" if names == ["dstore_filename"] else "dstore_filename"
        raise ConfigError(f"--model_args name {names[0]}, but neighbours need {missing} as well; give {missing}=…")
    if neighbours and not names:
        raise ConfigError(
            f"--model_args give {', '.join(neighbours)}, but no datastore; give dstore_filename=… and indexfile=…"
        )


def _batch_size(given: Any) -> int | None:
    """Returns rows at once; None for ``auto``, or ``auto:N``."""
    if given is None or str(given).partition(":")[0] == BATCH_AUTO:
        return None
    if not str(given).isdecimal() or int(given) < 1:
        raise ConfigError(f"--batch_size must be a whole number from 1 on, or auto, but is {shown(given)}")
    return int(given)


def _format(given: str) -> str:
    name = given.removeprefix("torch.")
    name = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(name, name)
    if name not in FORMATS:
        raise ConfigError(f"dtype must be one of {', '.join(FORMATS)}, but is {given}")
    return name
