"""From a model's directory to the adapter over it. transformers is never imported at the top of a module."""

from pathlib import Path

import torch

from fairseq.errors import ConfigError
from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.text.model_tokenizer import ModelTokenizer


def load_model(
    path: str | Path, *, dtype: torch.dtype = torch.float32, key_type: str | None = None
) -> HuggingFaceModel:
    """Returns the model of a local directory, in evaluation mode on the CPU.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: the directory cannot be read, or its kind of model is not known.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as err:
        raise ConfigError(
            f"--path {path} is a Hugging Face model, which needs the package transformers; pip install"
            " 'fairseq-knnlm[hf]'"
        ) from err
    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, local_files_only=True).eval()
    return HuggingFaceModel(model, ModelTokenizer(path).opening_id, key_type or "last_ffn_input")
