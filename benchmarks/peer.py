"""A virtual environment with a living descendant of the original, to run the same work beside ours.

    python benchmarks/peer.py VENV        about 1 GB, a few minutes; finished environments are left as they are

``fairseq-fixed`` is fairseq 0.12 made to install on a current Python; it gets the torch release that is installed here.
"""

import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

PEER = "fairseq-fixed==0.12.3.1"
# Its checkpoints hold an argparse.Namespace, which torch no longer unpickles unasked.
PEER_ENV = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": ""}


def make_peer(directory: Path) -> Path:
    """Returns the directory of the peer's commands, installed if they are not there."""
    commands = directory.absolute() / "bin"
    if not (commands / "fairseq-train").exists():
        venv.create(directory, with_pip=True)
        torch = f"torch=={version('torch').partition('+')[0]}"
        environment = {**os.environ, "PYTHONPATH": ""}
        subprocess.run([commands / "pip", "install", "--quiet", torch, PEER], check=True, env=environment)
    return commands


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/peer.py VENV")
    print(make_peer(Path(sys.argv[1])))
