"""What a stop says: which step is finished first, and what is kept."""

import os
import signal

import pytest

from fairseq.runtime.interrupts import Interrupted, advising, check, finish_step_first, handled


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
