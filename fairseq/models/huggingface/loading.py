"""From a model's directory to the adapter over it. transformers is never imported at the top of a module."""

import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.models.huggingface.head import CLOSE, CLOSE_IN_HALF
from fairseq.models.huggingface.keys import probe_ids
from fairseq.models.huggingface.structure import body_of, family_of
from fairseq.models.key_types import LAST_FFN_INPUT
from fairseq.storage.weight_files import tensors_of, weight_files
from fairseq.text.model_tokenizer import SHIFT, ModelTokenizer

logger = logging.getLogger(__name__)
_SHOWN = 3  # names of tensors in a message
# What older releases stored and newer ones compute: masks of attention, turning speeds and numbers of positions.
_CONSTANT = re.compile(r"(.*\.)?(inv_freq|position_ids|(attn|attention|self_attn|self_attention|self)\.(masked_)?bias)")


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    key_type: str = LAST_FFN_INPUT,
    trust_remote_code: bool = False,
) -> HuggingFaceModel:
    """Returns the model of a local directory, in evaluation mode on the CPU.

    Args:
        path: of the directory.
        dtype: of its weights and sums.
        key_type: which vector is the key.
        trust_remote_code: code in the directory is run, where the model's family is not one of transformers'.

    Raises:
        ConfigError: transformers is not installed, or there are no such keys.
        CheckpointError: the directory cannot be read, its tensors are not those of its settings, or the model is of a
            kind that cannot be used.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as err:
        raise ConfigError(
            f"--path {path} is a Hugging Face model, which needs the package transformers; pip install"
            " 'fairseq-knnlm[hf]'"
        ) from err
    weight_files(Path(path))
    with quiet():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                str(path),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told, and refused below
            )
        except Exception as err:  # transformers and the packages under it raise many kinds
            raise _refusal(path, err, trust_remote_code) from err
        _require_all_tensors(path, info)
        _require_finite(path, model)
        return adapter_of(model, path, key_type)


def adapter_of(model: Any, path: str | Path, key_type: str = LAST_FFN_INPUT) -> HuggingFaceModel:
    """Returns the adapter over a model whose tokenizer lies in a directory, or has left its ids in ``config.json``.

    Raises:
        CheckpointError: the model is of a kind that cannot be used.
        ConfigError: there are no such keys.
    """
    model.eval()
    model.config.return_dict = True
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "output_router_logits", False):
            config.output_router_logits = False  # only losses need them
    _require_causal(model)
    opening_id, adds_bos = _opening(Path(path), model.config)
    return HuggingFaceModel(model, opening_id, key_type, adds_bos=adds_bos).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' bars, lines of its log and warnings back while the block runs."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _refusal(path: str | Path, err: Exception, trusted: bool) -> Exception:
    """Returns the error for what transformers could not load, in one line."""
    reason = " ".join(str(err).split())
    if isinstance(err, UnpicklingError) or "weights_only" in reason:
        return CheckpointError(
            f"{path}: its pytorch_model*.bin holds more than tensors, and reading it could run code of others; it is"
            " refused. Give the same model as safetensors, from where it came from"
        )
    if "trust_remote_code" in reason and not trusted:
        return ConfigError(
            f"--path {path} is of a family that this release of transformers does not have, and brings Python code of"
            " its own; update transformers, or read that code and give --trust-remote-code"
        )
    if isinstance(err, ImportError):
        return ConfigError(f"--path {path} needs a package that is not installed ({reason[:300]}); install it")
    return CheckpointError(
        f"{path} cannot be loaded as a causal language model ({type(err).__name__}: {reason[:300]}); check that"
        " config.json and the files of weights belong together, or update transformers"
    )


def _require_all_tensors(path: str | Path, info: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless files and settings have the same tensors: one left out would be random numbers."""
    unexpected = info.get("unexpected_keys") or ()
    if any(_CONSTANT.fullmatch(name) for name in unexpected):
        shapes = _shapes(path)
        unexpected = [name for name in unexpected if not _is_constant(name, shapes)]
    for found, what in (
        (info.get("missing_keys"), "has no tensor"),
        (info.get("mismatched_keys"), "has tensors of other shapes than config.json says:"),
        (unexpected, "has tensors that config.json has no place for:"),
    ):
        names = sorted(name if isinstance(name, str) else str(name[0]) for name in found or ())
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise CheckpointError(
                f"{path} {what} {', '.join(names[:_SHOWN])}{more}; config.json and the files of weights must belong"
                " together: copy the model's directory again"
            )


def _is_constant(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Returns whether a tensor of the files is none that was learnt; a ``bias`` that is no mask may be."""
    if _CONSTANT.fullmatch(name) is None:
        return False
    if not name.endswith("bias"):
        return True
    found = [shape for other, shape in shapes.items() if f".{other}".endswith(f".{name}")]
    if name.endswith(".bias"):
        return bool(found) and all(len(shape) == 4 and shape[:2] == (1, 1) for shape in found)
    return bool(found) and all(math.prod(shape) == 1 for shape in found)


def _shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor in a directory's files of weights."""
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(Path(path)):
        if file.suffix == ".safetensors":
            found |= {name: shape for name, (_, shape) in tensors_of(file).items()}
        else:
            tensors = torch.load(file, map_location="meta", weights_only=True)
            found |= {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return found


@torch.no_grad()
def _require_finite(path: str | Path, model: Any) -> None:
    """Raises CheckpointError where a weight is NaN or infinite: attention may hide it."""
    for name, weight in model.named_parameters():
        if weight.numel() and weight.is_floating_point() and not all(end.isfinite() for end in weight.aminmax()):
            raise CheckpointError(f"{path}: weights in {name} are NaN or infinite; copy the model's directory again")


@torch.no_grad()
def _require_causal(model: Any) -> None:
    """Raises CheckpointError where a token sees those behind it, as in models that fill gaps."""
    ids_BT = probe_ids(model)
    other_BT = ids_BT.clone()
    other_BT[:, -1] = ids_BT[:, 0]
    first, second = (body_of(model)(ids, use_cache=False).last_hidden_state[:, :-1] for ids in (ids_BT, other_BT))
    if float((first - second).abs().max()) > CLOSE.get(first.dtype, CLOSE_IN_HALF) * float(first.abs().max()):
        raise CheckpointError(
            f"a {family_of(model)} model ({type(model).__name__}) is not causal: its words see those behind them; give"
            " a language model that reads from left to right"
        )


def _opening(path: Path, config: Any) -> tuple[int | None, bool]:
    """Returns the id here of what the model reads before a text, and whether that stands in front of each row."""
    if (path / "tokenizer.json").is_file():
        tokenizer = ModelTokenizer(path, "--path")
        return tokenizer.opening_id, bool(getattr(tokenizer, "adds_bos", False))
    for name in ("bos_token_id", "eos_token_id"):
        stated = getattr(config.get_text_config(), name, None)
        first = stated[0] if isinstance(stated, list) and stated else stated
        if isinstance(first, int) and first >= 0:
            return first + SHIFT, False
    return None, False
