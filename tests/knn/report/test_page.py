"""The page as one file: JSON inside a script element, figures as data URLs."""

import base64
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.knn.report.page import render, script_json
from fairseq.knn.report.sweep_images import sweep_figures


@given(st.text())
@settings(max_examples=200)
def test_no_word_can_end_its_script_element(word):
    text = script_json({"words": [word, "</script>", "<!--"]})
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text)["words"][0] == word


def test_the_title_is_text() -> None:
    """A split, which names the page, may be called anything."""
    page = "".join(render("</title><script>alert('&\"')</script>", {"unit": "word"}, [], {}))
    head = page[: page.index("</head>")]
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;" in head
    assert "alert('" not in page


def test_figures_are_taken_once_and_as_svg(tmp_path):
    assert sweep_figures(tmp_path / "none") == []
    (tmp_path / "a.png").write_bytes(b"png")
    (tmp_path / "a.svg").write_bytes(b"<svg/>")
    (tmp_path / "b.png").write_bytes(b"b")
    assert sweep_figures(tmp_path) == [
        ("a", "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()),
        ("b", "data:image/png;base64," + base64.b64encode(b"b").decode()),
    ]
