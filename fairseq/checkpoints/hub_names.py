"""Models that are named as on the Hugging Face hub, and the directories on this machine that they come to."""

from pathlib import Path

from fairseq.errors import CheckpointError, ConfigError
from fairseq.storage.weight_files import weight_files

_WANTED = ["config.json", "generation_config.json", "*token*", "vocab*", "merges.txt", "*.safetensors*", "*.py"]
_SECONDS = 5.0  # for the first answer


def local_directory(name: str) -> str:
    """Returns where a model of the hub lies on this machine: the cache, which it is brought to if there is a network.

    Raises:
        ConfigError: the package ``huggingface_hub`` is not installed.
        CheckpointError: it is not in the cache and cannot be brought, or has no such name.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as err:
        raise ConfigError(
            f"--path {name} does not exist here; as a name on the Hugging Face hub it needs the package transformers;"
            " pip install 'fairseq-knnlm[hf]'"
        ) from err
    try:
        found = snapshot_download(name, local_files_only=True, allow_patterns=_WANTED)
        if (Path(found) / "config.json").is_file() and weight_files(Path(found)):
            return str(found)
    except Exception:  # it is not in the cache, or in part: a download was broken off
        pass
    try:
        info = HfApi().model_info(name, timeout=_SECONDS)
        names = [file.rfilename for file in info.siblings or []]
        other = [] if any(file.endswith(".safetensors") for file in names) else ["pytorch_model*.bin*"]
        return str(snapshot_download(name, allow_patterns=[*_WANTED, *other]))
    except Exception as err:  # of the network, of the hub, or of the disk; each has its own kind
        reason = " ".join(str(err).split())[:200] or type(err).__name__
        raise CheckpointError(
            f"--path {name}: there is no such file or directory, and as a name on the Hugging Face hub it is not in"
            f" the cache and cannot be brought ({reason}); give a directory, or check the name and the network"
        ) from err
