"""``fairseq-lm-eval``: what the harness is asked to do, and what comes of both evaluations."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.builders.harness_model import DOCUMENTS, TinyModel, make_tiny_model
from tests.builders.harness_tasks import write_tasks
from tests.builders.markdown import ROOT, blocks_of, run_shell
from tests.builders.tiny_lm import Command

PROG = "fairseq-lm-eval"
KNN = "path=model,dstore_filename=store/dstore,indexfile=store/knn.index"
SETTINGS = {"path": "model", "dstore_filename": "store/dstore", "indexfile": "store/knn.index"}
HELP = """
import sys
from fairseq_cli.lm_eval import main
for words in ([], ["--help"], ["-h"], ["--version"]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == (0 if words else 2)
heavy = sorted({"torch", "faiss", "transformers", "lm_eval", "datasets", "yaml", "numpy"} & set(sys.modules))
assert not heavy, heavy
"""


class Harness:
    """Takes the place of the harness's own command, and keeps what it was asked; each run writes results."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> None:
        self.asked.append(list(words))
        if "--output_path" in words:
            output = Path(words[len(words) - 1 - words[::-1].index("--output_path") + 1])
            file = output.with_name(f"{output.stem}_1.json") if output.suffix else output / "m" / "results_1.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"results": {"task": {"acc,none": len(self.asked) / 4}}}))


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    made = Harness()
    monkeypatch.setattr("fairseq_cli.lm_eval._harness", made)
    return made


def test_help_is_there_at_once_and_names_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count(f"usage: {PROG}")) == (0, 1), done.stderr
    assert done.stdout.count(f"usage: {PROG}") == 2 and done.stdout.splitlines()[-1].startswith(f"{PROG} ")
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "examples:" in done.stdout and "dstore_filename=PREFIX" in done.stdout


def test_with_neighbours_there_are_two_evaluations_and_a_table(
    command: Command, harness: Harness, tmp_path: Path
) -> None:
    done = command(PROG, "--model_args", KNN, "--tasks", "a", "b", "--output_path", tmp_path / "out")
    assert done.code == 0, done.err
    words = ["run", "--tasks", "a", "b", "--output_path", str(tmp_path / "out"), "--model", "fairseq-knnlm"]
    both = (("with_knn", json.dumps(SETTINGS)), ("lm", json.dumps({"path": "model"})))
    ends = [
        ["--model_args", args, "--batch_size", "auto", "--output_path", tmp_path / "out" / side] for side, args in both
    ]
    assert harness.asked == [[*words, *map(str, end)] for end in ends]
    lines = [line.replace(" ", "") for line in done.out.splitlines() if line.startswith("|")]
    assert lines[0] == "|Tasks|Metric||modelalone|withneighbours|change|"
    assert lines[2] == "|task|acc||0.5000|0.2500|-0.2500|"


def test_a_file_of_results_has_two_names(command: Command, harness: Harness, tmp_path: Path) -> None:
    words = ["-t", "a", "-o", tmp_path / "new" / "r.json", "--use_cache", "kept", "-b", "4"]
    done = command(PROG, "run", "-a", KNN, *words)
    assert done.code == 0, done.err
    assert [asked[-4:-1] for asked in harness.asked] == [
        ["--output_path", str(tmp_path / "new" / f"r_{side}.json"), "--use_cache"] for side in ("with_knn", "lm")
    ]


def test_answers_that_are_kept_are_those_of_the_same_settings(command: Command, harness: Harness) -> None:
    """Another λ has another file with neighbours, and the model alone has the same one."""
    for weight in ("0.4", "0.9", "0.4"):
        args = f"{KNN},lmbda={weight}"
        assert command(PROG, "--model_args", args, "--tasks", "a", "--use_cache", "kept").code == 0
    mixed, alone = ([asked[-1] for asked in harness.asked[side::2]] for side in (0, 1))
    assert mixed[0] == mixed[2] != mixed[1] and len(set(alone)) == 1
    assert mixed[0].startswith("kept_with_knn_") and alone[0].startswith("kept_lm_")


def test_without_an_output_path_the_table_is_there_all_the_same(command: Command, harness: Harness) -> None:
    done = command(PROG, "--model_args", KNN, "--tasks", "a")
    assert done.code == 0 and "|model alone|with neighbours|" in done.out
    assert not Path(harness.asked[0][-1]).exists()


def test_results_that_could_not_be_written_are_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The harness only warns."""
    monkeypatch.setattr("fairseq_cli.lm_eval._harness", lambda words: None)
    done = command(PROG, "--model_args", "path=model", "--tasks", "a", "--output_path", tmp_path / "out")
    assert done.error.startswith(f"lm-eval has written no results to {tmp_path / 'out'}; see its warnings")


@pytest.mark.parametrize(
    "words",
    [["--model_args", "path=model"], ["--model_args", KNN, "--no-compare"], ["--model-args", KNN, "--no_compare"]],
)
def test_one_evaluation(command: Command, harness: Harness, words: list[str]) -> None:
    """Flags of the harness may have hyphens; it has none of ours."""
    done = command(PROG, *words, "--tasks", "a", "--log-format", "none", "--batch-size=2")
    assert done.code == 0, done.err
    args = json.dumps({"path": "model"} if words[1] == "path=model" else SETTINGS)
    expected = ["run", "--tasks", "a", "--batch_size=2", "--model", "fairseq-knnlm", "--model_args", args]
    assert harness.asked == [expected] and "|" not in done.out


def test_settings_of_a_file_are_read(command: Command, harness: Harness, tmp_path: Path) -> None:
    """What was typed wins over it, setting by setting."""
    config = tmp_path / "c.yaml"
    config.write_text(f"model_args: {{path: model, dstore_filename: d, k: 4}}\noutput_path: {tmp_path / 'out'}\n")
    done = command(PROG, "--config", config, "--model_args", "indexfile=i", "k=8")
    assert done.code == 0, done.err
    assert [asked[-1] for asked in harness.asked] == [str(tmp_path / "out" / side) for side in ("with_knn", "lm")]
    args = [json.loads(asked[asked.index("--model_args") + 1]) for asked in harness.asked]
    assert args == [{"path": "model", "dstore_filename": "d", "k": 8, "indexfile": "i"}, {"path": "model"}]


def test_settings_of_another_model_are_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise TypeError("HFLM.__init__() missing 1 required positional argument: 'pretrained'")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    error = command(PROG, "--model", "hf", "--model_args", "path=m", "--tasks", "wikitext").error
    assert "HFLM.__init__()" in error and "give that --model the --model_args of its own" in error


def test_what_is_the_harness_s_own_goes_through(command: Command, harness: Harness) -> None:
    for words in (["ls", "tasks"], ["validate", "--tasks", "a"], ["run", "--help"]):
        assert command(PROG, *words).code == 0
    assert command(PROG, "--model", "hf", "--model_args", "pretrained=m", "--tasks", "a").code == 0
    last = ["run", "--model", "hf", "--model_args", "pretrained=m", "--tasks", "a"]
    assert harness.asked == [["ls", "tasks"], ["validate", "--tasks", "a"], ["run", "--help"], last]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "a"], "--model_args must name a model; give path="),
        (["--model_args", "path=m,lmda=0.2"], "'lmda' is not a setting of --model_args of fairseq-knnlm; did you mean"),
        (["--model_args", "path=m,dstore_filename=d"], "neighbours need indexfile as well; give indexfile="),
        (["--model_args", "m"], "--model_args must be name=value,…, but one is m"),
        (["--model_args", '{"path"'], '--model_args {"path" is not JSON'),
        (["--model_args", "path=gone.pt", "--tasks", "a"], "checkpoint gone.pt does not exist"),
        (["--model_args", KNN, "--tasks", "a", "--log-samples"], "give --output_path DIR, where they are to be"),
        (["--config", "gone.yaml"], "gone.yaml: No such file or directory"),
    ],
)
def test_slips_are_one_line(
    command: Command, harness: Harness, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in command(PROG, *words).error
    assert not harness.asked


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- a", "must hold names and values")])
def test_a_file_that_holds_no_settings(command: Command, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert message in command(PROG, "--config", tmp_path / "c.yaml").error


def test_without_the_harness_its_extra_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = command(PROG, "--model_args", "path=m", "--tasks", "a").error
    assert error == f"{PROG} needs the package lm-eval; pip install 'fairseq-knnlm[lm-eval]'"


def test_run_by_its_path_it_would_be_the_package_that_it_looks_for() -> None:
    file = Path(__file__).resolve().parents[2] / "fairseq_cli" / "lm_eval.py"
    env = {"PYTHONPATH": str(file.parents[1]), "PATH": ""}
    words = [sys.executable, str(file), "--tasks", "a"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 2 and f"run {PROG}, or python -m fairseq_cli.lm_eval" in done.stderr


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def numbers(root: Path) -> dict[str, Any]:
    """Returns the metrics of the only results in a directory."""
    [path] = root.rglob("results_*.json")
    found = json.loads(path.read_text(encoding="utf-8"))["results"]
    pairs = {f"{task} {name}": value for task, each in found.items() for name, value in each.items()}
    return {name: value for name, value in pairs.items() if isinstance(value, (int, float)) and "stderr" not in name}


@pytest.mark.slow
def test_the_harness_evaluates_a_model_both_ways(llama: TinyModel, tmp_path: Path) -> None:
    """The model alone has the numbers of the harness's own ``hf``; samples of both are kept."""
    tasks = ["--tasks", "tiny_choice", "tiny_documents", "tiny_texts"]
    tasks += ["--include_path", str(write_tasks(tmp_path / "tasks", DOCUMENTS)), "--log_samples"]
    args = ",".join(f"{name}={value}" for name, value in llama.args.items())
    env = {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fairseq_cli.lm_eval", *words],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(Path(shutil.which("env") or "/bin/env").parent), **env},
        )

    done = run("--model_args", args, *tasks, "--output_path", str(tmp_path / "ours"), "--batch_size", "4")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "model alone|with neighbours|" in done.stdout
    hf = f"pretrained={llama.path},dtype=float32"
    other = run("--model", "hf", "--model_args", hf, "--device", "cpu", *tasks, "--output_path", str(tmp_path / "hf"))
    assert other.returncode == 0, other.stderr[-2000:]
    assert numbers(tmp_path / "ours" / "lm") == pytest.approx(numbers(tmp_path / "hf"), rel=1e-5)
    assert numbers(tmp_path / "ours" / "with_knn") != pytest.approx(numbers(tmp_path / "hf"), rel=1e-2)
    assert len(list((tmp_path / "ours").rglob("samples_*.jsonl"))) == 6
    refused = run("--model_args", args, "--tasks", "no_such_task")
    assert refused.returncode == 2
    assert f"{PROG}: error: lm-eval: Tasks not found: no_such_task" in refused.stderr


@pytest.mark.slow
def test_every_block_of_the_page_runs(llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny model and its datastore in the places that docs/lm-eval.md names."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama.path.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / PROG
    script.write_text(f"#!{sys.executable}\nfrom fairseq_cli.lm_eval import cli_main\ncli_main()\n")
    script.chmod(0o755)
    for name, value in {"HF_HOME": tmp_path / "cache", "HF_DATASETS_OFFLINE": 1, "HF_HUB_OFFLINE": 1}.items():
        monkeypatch.setenv(name, str(value))
    told = ""
    for block in blocks_of(ROOT / "docs" / "lm-eval.md"):
        if block.language == "bash":
            told += run_shell(f'PATH="{script.parent}:$PATH"\n{block.code}')
        else:
            code = f"{block.code}\nprint(found['results']['pages'], alone['results']['pages'])"
            words = [sys.executable, "-c", code]
            done = subprocess.run(
                words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            told += done.stdout
    mixed, alone = (numbers(tmp_path / "results" / side)["pages word_perplexity,none"] for side in ("with_knn", "lm"))
    assert mixed < alone and f"|{alone:.4f}|{mixed:.4f}|" in told.replace(" ", "")
    assert str(mixed) in told and str(alone) in told
