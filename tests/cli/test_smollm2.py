"""A real model: SmolLM2-135M-Instruct on WikiText-2, and with a datastore of this project's own code."""

import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.builders.tiny_lm import Command

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
BLOCK, BLOCKS = 1024, 8


def cut(text: str, model: Path, num_tokens: int) -> str:
    """Returns the beginning of a text that has so many tokens."""
    ends = [end for _, end in Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).offsets]
    return text[: ends[num_tokens - 1]]


def test_the_perplexity_of_wikitext_2_is_that_of_transformers(
    command: Command, smollm2: Path, shared_dir: Path, tmp_path: Path
) -> None:
    """The figure is of ``model(ids, labels=ids).loss`` by transformers alone, 8 blocks of 1,024 without BOS."""
    with lzma.open(shared_dir / "data" / "wikitext-2" / "wiki.test.tokens.xz", "rt", encoding="utf-8") as file:
        text = cut(file.read(), smollm2, BLOCK * BLOCKS)
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    words = [
        "--only-source",
        "--tokenizer",
        smollm2,
        "--testpref",
        tmp_path / "test.txt",
        "--destdir",
        tmp_path / "data",
    ]
    assert command("fairseq-preprocess", *words).code == 0
    blocks = ["--sample-break-mode", "isolated", "--tokens-per-sample", BLOCK, "--max-tokens", BLOCK]
    written = ["--gen-subset", "test", "--results-path", tmp_path / "results.json"]
    assert command("fairseq-eval-lm", tmp_path / "data", "--path", smollm2, *blocks, *written).code == 0
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["targets"] == BLOCKS * (BLOCK - 1)
    assert found["ppl"] == pytest.approx(23.609, abs=0.002)


def test_the_demo_ends_in_its_table_and_its_page(smollm2: Path, tmp_path: Path) -> None:
    """``make demo-hf`` with a tenth of its rows: a lower perplexity, and the files and lines of neighbours."""
    place = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    sizes = {"MODEL": str(smollm2), "WORK": str(tmp_path / "demo"), "ROWS": "6000", "TOKENS": "1200"}
    run = subprocess.run(
        ["bash", ROOT / "examples" / "knnlm" / "demo_hf.sh"],
        env={**os.environ, **place, **sizes},
        text=True,
        capture_output=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    lm, both = (
        re.findall(r"[\d.]+", line) for line in run.stdout.splitlines() if line.startswith(("| language", "| + n"))
    )
    assert len(lm) == len(both) == 6
    assert all(float(mixed) < float(alone) for alone, mixed in zip(lm, both, strict=True))
    places = re.findall(r"votes: (\S+\.py):(\d+)$", run.stdout, re.MULTILINE)
    assert len(places) >= 3
    train = tmp_path / "demo" / "text" / "train"
    for name, line in places:
        (file,) = [path for path in train.rglob("*.py") if name.endswith(path.relative_to(train).as_posix())]
        assert 1 <= int(line) <= len(file.read_text(encoding="utf-8").splitlines())
    page = (tmp_path / "demo" / "retrieval" / "test" / "report.html").read_text(encoding="utf-8")
    assert Path(places[0][0]).name in page
