"""The blocks of docs/python.md run, and its tables are those of the code."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from fairseq.config.flags import flag_fields
from fairseq.hub.text_settings import BESIDE
from fairseq.hub.texts import OTHER_WORDS
from fairseq.knn.config import KNNConfig, KNNSettings
from fairseq.text import BPES, TOKENIZERS
from knnlm import KNN
from tests.builders.cases import Artefacts
from tests.builders.subword_files import subword_model

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_blocks_run(artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory where the names of the page are those of small files."""
    place = tmp_path / "checkpoints"
    place.mkdir()
    (place / "model.pt").symlink_to(artefacts.checkpoint)
    (place / "dict.txt").symlink_to(artefacts.data / "dict.txt")
    for name in ("dstore_keys.npy", "dstore_vals.npy", "dstore.json", "knn.index", "knn.index.json"):
        (place / name).symlink_to(artefacts.root / name)
    subword_model(artefacts, tmp_path / "wmt19.en")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["logits"].shape == (5, 40) and names["extra"]["context_vectors"].shape == (5, 16)
    assert [len(texts) for texts in names["several"]] == [1, 1]
    assert names["features"].shape == (1, 4, 16)
    raw = names["raw"]
    assert raw.string(raw.encode("lower, low.")) == "low@@ er , lo@@ w .", "as the page says"
    assert names["rows"].shape == (4, 4)


def test_the_table_of_raw_text_is_the_registries() -> None:
    section = PAGE.partition("## Raw text")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    for registry, keyword in ((TOKENIZERS, "tokenizer"), (BPES, "bpe")):
        settings = {
            name: set(re.findall(r"`(\w+)`", cells[0] if cells else ""))
            for head, *cells in rows
            for name in re.findall(rf'`{keyword}="(\w+)"`', head)
        }
        configs = {name: registry.config(name) for name in registry.names()}
        assert settings == {name: set(flag_fields(config)) if config else set() for name, config in configs.items()}
    assert {name for names in BESIDE.values() for name in names} <= set(re.findall(r"`([\w.]+)`", section))


def test_the_tables_name_what_there_is() -> None:
    section = PAGE.partition("## Neighbours")[2].partition("\n```")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == set(KNNSettings.__annotations__)
    defaults = {row[0]: row[1] for row in rows}
    parameters = inspect.signature(KNN).parameters
    assert defaults["| `k`"] == str(parameters["k"].default) == str(KNNConfig().k)
    assert defaults["| `lmbda`"] == str(parameters["lmbda"].default)
    assert defaults["| `probe`"] == str(KNNConfig().probe)
    table = PAGE.partition("| Hugging Face | here |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        theirs, ours = (re.findall(r"`(\w+)`", cell) for cell in line.strip("| ").split(" | "))
        assert [OTHER_WORDS[word] for word in theirs] == ours
