"""What is given to both programs: the copy of the other one, and a text of whole blocks."""

from pathlib import Path

import pytest
from knn_transformers import OUTDATED, whole_blocks
from tokenizers import Tokenizer

from tests.builders.tiny_llama import TEXT


def test_two_arguments_are_taken_out() -> None:
    text = "call(\n    use_auth_token=True if x else None,\n    tokenizer=tokenizer,\n    other=tokenizer,\n)\n"
    assert OUTDATED.sub("", text) == "call(\n    other=tokenizer,\n)\n"


@pytest.mark.parametrize("block", [16, 50])
def test_the_text_has_whole_blocks(tiny_llama: Path, tmp_path: Path, block: int) -> None:
    path = tmp_path / "valid.txt"
    path.write_text(TEXT, encoding="utf-8")
    lines = whole_blocks(tiny_llama, path, block, 300)
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    count = sum(len(tokenizer.encode(line).ids) for line in lines)
    assert count % block == 0 and 0 < count <= 300
    assert TEXT.startswith("".join(lines))
    with pytest.raises(SystemExit, match="give a longer text, or a smaller --block"):
        whole_blocks(tiny_llama, path, 10_000, 20_000)
