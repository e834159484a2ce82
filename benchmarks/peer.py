"""A virtual environment with a living descendant of the original, to run the same work beside ours.

    python benchmarks/peer.py VENV                   about 1 GB, a few minutes; a finished one is left as it is
    python benchmarks/peer.py --shared-torch VENV    250 MB, a minute: it sees the packages that are installed here

``fairseq-fixed`` is fairseq 0.12 made to install on a current Python; it gets the torch release that is installed here.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

PEER = "fairseq-fixed==0.12.3.1"
# Of what it needs, what its commands import; torch and NumPy are there already.
IMPORTED = ("hydra-core", "omegaconf", "sacrebleu", "bitarray", "regex", "scikit-learn")
# Its checkpoints hold an argparse.Namespace, which torch no longer unpickles unasked.
PEER_ENV = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": ""}


def make_peer(directory: Path, *, shared_torch: bool = False) -> Path:
    """Returns the directory of the peer's commands, installed if they are not there.

    With ``shared_torch`` its Python finds the packages of this one behind its own, and torch is not installed again.
    """
    commands = directory.absolute() / "bin"
    if not (commands / "fairseq-train").exists():
        venv.create(directory, with_pip=not shared_torch)
        python = str(commands / "python")
        if shared_torch:
            own = Path(sysconfig.get_path("purelib", vars={"base": str(directory.absolute())}))
            here = [path for path in sys.path if path.endswith("site-packages")]
            (own / "behind.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
            _pip(["--python", python, "install", *IMPORTED])
            _pip(["--python", python, "install", "--no-deps", PEER])
        else:
            _pip(["--python", python, "install", f"torch=={version('torch').partition('+')[0]}", PEER])
    return commands


def _pip(words: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True, env=environment)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--shared-torch"]
    if len(words) != 1:
        raise SystemExit("usage: python benchmarks/peer.py [--shared-torch] VENV")
    print(make_peer(Path(words[0]), shared_torch="--shared-torch" in sys.argv))
