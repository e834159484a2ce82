"""What a stop says: which step is finished first, and what is kept."""

import os
import signal

import pytest

from fairseq.runtime.interrupts import Interrupted, advising, check, finish_step_first, handled, ignore_signals


def test_the_first_signal_names_the_step_that_is_finished_and_the_check_says_how_to_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with handled(), finish_step_first("outer"), finish_step_first("the training"), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signal.SIGINT)
        assert caplog.messages == ["SIGINT: stopping after the training; a second signal stops at once"]
        check("it is saved")
    assert (caught.value.advice, caught.value.between_steps) == ("it is saved", True)


@pytest.mark.parametrize(("own", "said"), [("", "nothing is kept"), ("rows are kept", "rows are kept")])
def test_work_that_keeps_nothing_says_so_unless_a_part_knows_better(own: str, said: str) -> None:
    with pytest.raises(Interrupted) as caught, advising("nothing is kept"):
        raise Interrupted(signal.SIGTERM, own)
    assert caught.value.advice == said


def test_under_torchrun_a_second_sigterm_changes_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue and torchrun both send one; what is being saved is finished. Ctrl-C is the user's."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with handled(), finish_step_first(), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert caplog.messages == []
        check("it is saved")
    assert (caught.value.signum, caught.value.between_steps) == (signal.SIGTERM, True)
    with handled(), finish_step_first(), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert (caught.value.signum, caught.value.between_steps) == (signal.SIGINT, False)


def test_a_run_that_is_over_hears_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handled():
        ignore_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
