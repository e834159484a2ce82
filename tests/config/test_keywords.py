"""Python's callers read keywords where a command's users read flags."""

from dataclasses import dataclass

import pytest

from fairseq.config.flags import flag
from fairseq.config.keywords import in_keywords
from fairseq.errors import ConfigError, FairseqError, MismatchError


@dataclass(frozen=True)
class SomeConfig:
    """Some."""

    k: int = flag(8, "k")
    rerank: int | None = flag(None, "rows")
    beta: float = flag(1.0, "β")
    sampling: bool = flag(False, "draw")
    sim_func: str | None = flag(None, "nearness", choices=("dot", "l2"))
    dstore_filename: str | None = flag(None, "prefix")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("--rerank 4 must be at least --k 8: it is", "rerank=4 must be at least k=8: it is"),
        ("--beta -1e-9, or --beta 0.5; raise it", "beta=-1e-9, or beta=0.5; raise it"),
        ("--beta is about drawing; give --sampling as well", "beta is about drawing; give sampling=True as well"),
        ("add --sim-func dot, or (--sim_func)", "add sim_func='dot', or (sim_func)"),
        ("--sampling must be true or false, but is 3", "sampling must be true or false, but is 3"),
        ("--sim-func must be dot", "sim_func must be dot"),
        ("--dstore-filename 2; leave --dstore-size out", "prefix 2; leave rows out"),
        ("the keys; fairseq-knnlm check --recall lists them", "the keys; fairseq-knnlm check --recall lists them"),
        ("or: --model-overrides \"{'max_positions': N}\"", "or: from_pretrained(…, max_positions=N)"),
        ("a -- b, --ks, ---k and x--y", "a -- b, --ks, ---k and x--y"),
    ],
)
def test_flags_of_the_configs_become_keywords(message: str, expected: str) -> None:
    with (
        pytest.raises(MismatchError) as caught,
        in_keywords(SomeConfig, dstore_filename="prefix", dstore_size="rows"),
    ):
        raise MismatchError(message)
    assert str(caught.value) == expected


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ValueError, match="--k 8"), in_keywords(SomeConfig):
        raise ValueError("--k 8")
    with pytest.raises(FairseqError) as caught, in_keywords(SomeConfig):
        try:
            raise OSError("cause")
        except OSError as err:
            raise ConfigError("--k") from err
    assert str(caught.value) == "k" and isinstance(caught.value.__cause__, OSError)
