"""``--post-process``: subwords as words."""

import pytest

from fairseq.errors import ConfigError
from fairseq.text.post_process import check_post_process, joined, rule_for


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (None, "lo@@ w ▁er", "lo@@ w ▁er"),
        ("none", "lo@@ w ▁er", "lo@@ w ▁er"),
        ("@@ ", "the lo@@ w@@ er low@@", "the lower low"),
        ("@@", "the lo@@ w@@ er", "the lower"),
        ("subword_nmt", "the lo@@ w@@ er", "the lower"),
        ("##", "lo## w", "low"),
        ("sentencepiece", "▁the ▁lo w er ▁ .", "the lower ."),
        ("sentencepiece", "er ▁the", "er the"),
    ],
)
def test_words(rule: str | None, text: str, expected: str) -> None:
    """As fairseq 0.12 has them; there "@@" leaves a space in the word, and "##" is not known."""
    check_post_process(rule)
    assert joined(text, rule) == expected


@pytest.mark.parametrize("rule", ["letter", "wordpiece", "silence", "_EOW", "gpt2", "fastbpe", "characters"])
def test_kinds_without_a_mark_are_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=f"^--post-process {rule} is not here: give sentencepiece .*, or none$"):
        check_post_process(rule)


@pytest.mark.parametrize(
    ("symbols", "rule", "expected", "warning"),
    [
        (["▁lo", "w"], "sentencepiece", "sentencepiece", None),
        (["lo@@", "w"], "@@ ", "@@ ", None),
        (["low"], None, None, None),
        (["low"], "none", "none", None),
        (["low"], "sentencepiece", None, "--post-process has no effect: no word of the dictionary begins with ▁"),
        (["low"], "@@ ", None, "--post-process has no effect: no word of the dictionary ends in @@"),
        (
            ["▁", *(f"word{number}" for number in range(100))],
            "sentencepiece",
            "sentencepiece",
            "--post-process sentencepiece: 1 word begins with ▁, and the other 100 of the dictionary go on with the"
            " word before; is this dictionary one of sentencepiece?",
        ),
        (["lo@@", *(f"word{number}" for number in range(100))], "@@ ", "@@ ", None),
    ],
)
def test_a_mark_that_the_dictionary_lacks_joins_nothing(
    symbols: list[str], rule: str | None, expected: str | None, warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert rule_for(symbols, rule) == expected
    assert [record.getMessage() for record in caplog.records] == ([warning] if warning else [])
