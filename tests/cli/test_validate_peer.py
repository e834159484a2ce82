"""fairseq 0.12's ``fairseq-validate`` and ours say the same of the same checkpoint."""

import re
import shlex
from pathlib import Path

import pytest

from tests.builders.peer import output_of, peer_python
from tests.builders.tiny_lm import BATCHING, MODEL, NUM_WORDS, OPTIMIZATION, Command, write_data

# Without the last, fairseq leaves out up to seven blocks of a split: those beyond a multiple of eight.
THEIRS = shlex.split("--task language_modeling --max-tokens 128 --num-workers 0 --cpu --required-batch-size-multiple 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", ["", "--sample-break-mode complete --share-decoder-input-output-embed", "--adaptive-softmax-cutoff 10,30"]
)
def test_fairseq_tells_the_same_loss(command: Command, tmp_path: Path, flags: str) -> None:
    data = write_data(tmp_path / "data-bin", [f"w{i}" for i in range(NUM_WORDS)])
    words = [*MODEL, *BATCHING, *OPTIMIZATION, "--max-update", 12, *shlex.split(flags)]
    assert command("fairseq-train", data, "--save-dir", tmp_path, *words).code == 0
    path = tmp_path / "checkpoint_last.pt"
    ours = command("fairseq-validate", data, "--path", path, "--cpu", "--valid-subset", "valid,test").out
    theirs = [str(data), "--path", str(path), "--valid-subset", "valid,test", *THEIRS]
    said = output_of(peer_python(), "-m", "fairseq_cli.validate", *theirs, cwd=tmp_path)
    pattern = r"valid on '(\w+)' subset \| loss ([\d.]+) .*?ppl ([\d.]+)"
    found, expected = re.findall(pattern, ours), re.findall(pattern, said)
    assert [split for split, _, _ in found] == [split for split, _, _ in expected] == ["valid", "test"], said[-2000:]
    for (_, loss, ppl), (_, their_loss, their_ppl) in zip(found, expected, strict=True):
        assert float(loss) == pytest.approx(float(their_loss), abs=6e-4), "three decimals are printed there"
        assert float(ppl) == pytest.approx(float(their_ppl), abs=6e-3), "and two of these"
