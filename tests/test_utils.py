"""Helpers that plugins call, with fairseq's results."""

import math
from argparse import Namespace

import torch

from fairseq import utils


def test_perplexity_is_rounded_to_two_digits_unless_told() -> None:
    assert utils.get_perplexity(1.5) == 2.83
    assert utils.get_perplexity(1.5, round=None) == 2**1.5
    assert utils.get_perplexity(2.0, base=3) == 9
    assert utils.get_perplexity(None) == 0
    assert utils.get_perplexity(5000.0) == math.inf


def test_tensors() -> None:
    assert utils.item(torch.tensor(3)) == utils.item(3) == 3
    x = torch.tensor([[1.0, 2.0], [-3.5, 80.0]], dtype=torch.bfloat16)
    for found, expected in (
        (utils.softmax(x, dim=-1), torch.softmax(x.double(), -1)),
        (utils.log_softmax(x, dim=-1), torch.log_softmax(x.double(), -1)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_attributes_that_may_be_missing() -> None:
    """As fairseq 0.12's functions answered when they were called."""
    args = Namespace(none=None, zero=0)
    assert utils.safe_getattr(args, "none", 3) is None
    assert [utils.safe_getattr(args, name, 3) for name in ("zero", "missing")] == [0, 3]
    assert [utils.safe_hasattr(args, name) for name in ("none", "zero", "missing")] == [False, True, False]
