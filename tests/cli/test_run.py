"""What every command does when there is no memory left."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fairseq_cli.shared.run import run

EXABYTE = 1 << 60


def too_much_of_numpy(argv: Sequence[str]) -> None:
    np.zeros(EXABYTE, np.uint8)


def too_much_of_torch(argv: Sequence[str]) -> None:
    torch.empty(EXABYTE, dtype=torch.uint8)


@pytest.mark.parametrize("main", [too_much_of_numpy, too_much_of_torch])
def test_running_out_of_memory_is_one_line(main, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("prog", main, []) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("prog: error: out of memory (")
    assert "--max-tokens" in last


def test_other_errors_of_torch_are_not_hidden() -> None:
    def main(argv: Sequence[str]) -> None:
        torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="tensor"):
        run("prog", main, [])
