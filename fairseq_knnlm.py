"""Starts commands where another fairseq may lie over ours, or before it.

fairseq and this project both own the packages ``fairseq`` and ``fairseq_cli``: whichever was installed last has
replaced files of the other, or is found first. This module lies in neither and imports nothing of them, so that it
works whatever is there.
"""

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path

OURS = "fairseq_knnlm"
_HOME = Path(__file__).resolve().parent
_FIRST_WORDS = '"""A fairseq for language models.'  # of the package's __init__.py


def other_fairseqs() -> list[str]:
    """Returns the other distributions that have a package ``fairseq`` where ours is, or where Python finds it first."""
    found = []
    for place in map(Path, dict.fromkeys(sys.path)):
        is_home = place.resolve() == _HOME
        if is_home or place.name in ("site-packages", "dist-packages"):
            found += [path.name.partition("-")[0] for path in place.glob("fairseq*.dist-info") if _owns_fairseq(path)]
        if is_home:
            break
    return [name.replace("_", "-") for name in found if name != OURS]


def _owns_fairseq(metadata: Path) -> bool:
    """Whether a distribution has a package ``fairseq``."""
    with contextlib.suppress(OSError):
        return "\nfairseq/__init__.py," in "\n" + (metadata / "RECORD").read_text(encoding="utf-8", errors="replace")
    return False


def clash(others: list[str]) -> str:
    """Returns what is wrong, and what to do."""
    names = " ".join(others)
    return (
        f"{names} and fairseq-knnlm are installed together, but both own the package fairseq; give each a virtual"
        f" environment of its own, or run: pip uninstall -y {names} fairseq-knnlm && pip install fairseq-knnlm"
    )


def require_own_fairseq() -> None:
    """Raises ImportError if the package ``fairseq`` is another distribution's."""
    if (others := other_fairseqs()) and not _is_ours():
        raise ImportError(clash(others))


def _is_ours() -> bool:
    """Whether the package ``fairseq`` that Python finds is ours."""
    spec = importlib.util.find_spec("fairseq")  # which does not import it
    if spec is None or spec.origin is None:
        return False
    with contextlib.suppress(OSError):
        return Path(spec.origin).read_text(encoding="utf-8").startswith(_FIRST_WORDS)
    return False


def knnlm() -> None:
    """Runs ``fairseq-knnlm``."""
    _start("fairseq-knnlm", "fairseq_cli.knnlm")


def score_lm() -> None:
    """Runs ``fairseq-score-lm``."""
    _start("fairseq-score-lm", "fairseq_cli.score_lm")


def build_dstore() -> None:
    """Runs ``fairseq-build-dstore``."""
    _start("fairseq-build-dstore", "build_dstore")


def lm_eval() -> None:
    """Runs ``fairseq-lm-eval``."""
    _start("fairseq-lm-eval", "fairseq_cli.lm_eval")


def _start(prog: str, module: str) -> None:
    try:
        require_own_fairseq()
    except ImportError as err:
        print(f"{prog}: error: {err}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    importlib.import_module(module).cli_main()
