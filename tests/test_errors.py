"""The exception tree, and how a command turns an error into one line and an exit code."""

import logging
from collections.abc import Sequence

import pytest

from fairseq import errors
from fairseq_cli.shared.run import EXIT_USER_ERROR, describe, run


@pytest.mark.parametrize("name", ["ConfigError", "DataError", "CheckpointError", "DatastoreError", "MismatchError"])
def test_every_user_error_is_a_fairseq_error(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.FairseqError)


def test_a_mismatch_is_a_datastore_error() -> None:
    assert issubclass(errors.MismatchError, errors.DatastoreError)


def test_a_message_names_a_dozen_and_of_more_the_first() -> None:
    names = [f"name{number}" for number in range(13)]
    assert errors.some_of(names[:12]) == ", ".join(names[:12])
    assert errors.some_of(names) == f"{', '.join(names[:8])} and 5 more, which --help lists"


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("--max-token", ["--max-tokens", "--lr"], "; did you mean --max-tokens?"),
        ("transformer_lm_wiki13", ["transformer_lm_wiki103"], "; did you mean transformer_lm_wiki103?"),
        ("zebra", ["--max-tokens"], ""),
        ("zebra", [], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], hint: str) -> None:
    assert errors.did_you_mean(word, known) == hint


def test_an_unknown_setting_is_refused_with_the_nearest_known_one_and_all_there_are() -> None:
    errors.refuse_unknown(["k", "probe"], {"k", "probe", "lmbda"}, "KNN")
    with pytest.raises(errors.ConfigError) as caught:
        errors.refuse_unknown(["k", "prob"], {"probe", "k"}, "KNN")
    assert str(caught.value) == "'prob' is not a setting of KNN; did you mean probe? (settings: k, probe)"
    with pytest.raises(errors.ConfigError, match="'nprobe' is not a setting of KNN; did you mean probe"):
        errors.refuse_unknown(["nprobe"], {"k", "probe"}, "KNN", {"nprobe": "probe"})
    many = {f"setting_{number}" for number in range(50)}
    with pytest.raises(errors.ConfigError) as caught:
        errors.refuse_unknown(["x"], many, "a model")
    assert str(caught.value) == "'x' is not a setting of a model"


def failing(err: BaseException) -> object:
    def main(argv: Sequence[str]) -> None:
        raise err

    return main


@pytest.mark.parametrize(
    ("err", "line"),
    [
        (errors.ConfigError("--x must be 1,\n but is 2"), "prog: error: --x must be 1, but is 2"),
        (errors.DatastoreError("torn"), "prog: error: torn"),
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "prog: error: /a/b: No such file or directory"),
        (PermissionError(13, "Permission denied"), "prog: error: Permission denied"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(
    err: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prog", failing(err), []) == EXIT_USER_ERROR == 2  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert captured.err == line + "\n"
    assert captured.out == ""


def test_traceback_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prog", failing(errors.ConfigError("bad")), ["--traceback"]) == 2  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("prog: error: bad\n")


def test_a_bug_is_not_caught() -> None:
    with pytest.raises(AssertionError):
        run("prog", failing(AssertionError("ours")), [])  # type: ignore[arg-type]


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prog", failing(KeyboardInterrupt()), []) == 130 == 130  # type: ignore[arg-type]
    assert (
        capsys.readouterr().err
        == "prog: stopped by SIGINT; no file is half-written; the same command starts again, from what was saved\n"
    )


def test_a_command_ends_with_time_and_memory(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert run("prog", lambda argv: None, []) == 0
    assert caplog.messages[-1].startswith("prog: 0:00, peak memory ")
    assert caplog.messages[-1].endswith(" GiB")


def test_describe_is_one_line() -> None:
    assert describe(ValueError("a\n  b")) == "a b"
