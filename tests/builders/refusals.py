"""What a call refuses, for tests of what is let through."""

from collections.abc import Callable

from fairseq.errors import FairseqError


def refusal(call: Callable[..., object], *args: object) -> str:
    """Returns the message of the error that a call raises for the user; empty where it raises none."""
    try:
        call(*args)
    except FairseqError as err:
        return str(err)
    return ""
