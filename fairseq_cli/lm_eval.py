"""``fairseq-lm-eval``: the lm-evaluation-harness with a model of ours, with and without neighbours in one run."""

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq import __version__
from fairseq.config.command_line import hyphens
from fairseq.errors import ConfigError, DataError, FairseqError
from fairseq_cli.shared.run import run

PROG, MODEL = "fairseq-lm-eval", "fairseq-knnlm"
WITH, ALONE = "with_knn", "lm"
HELP = f"""usage: {PROG} --model_args path=DIR[,dstore_filename=PREFIX,indexfile=FILE,…] --tasks TASK [TASK …] [flags]

Evaluate a model with the tasks of EleutherAI's lm-evaluation-harness. With a datastore, every score is the mixture's,
and the model alone is evaluated as well, from the same forward passes: two results, and a table of both.

flags:
  --model_args NAME=VALUE,…   the model, and its neighbours (below)
  --tasks TASK [TASK …]       names of tasks, or .yaml files; "{PROG} ls tasks" lists the names
  --output_path DIR           write the harness's results there; with a datastore DIR/{WITH} and DIR/{ALONE}
  --no-compare                with a datastore: do not evaluate the model alone
  --batch_size N              rows at once [default: auto, as many as fill a number of tokens]
  --user-dir, --log-file, --log-format, --no-progress-bar, --traceback   as in every command

Every other flag is the harness's own (--num_fewshot, --limit, --include_path, --log_samples, --apply_chat_template,
--gen_kwargs, --device, --seed, --config, …); "{PROG} run --help" lists them.

model_args:
  path=DIR                    directory of a Hugging Face model; or a checkpoint of fairseq-train
  data=DIR                    with a checkpoint: the directory with its dict.txt
  dstore_filename=PREFIX      prefix of a datastore; A:B searches several together
  indexfile=FILE              its index
  k, lmbda, knn_temp, probe   as the flags of fairseq-eval-lm [default: k 1024, lmbda 0.25, knn_temp auto, probe 8]
  rerank, knn_sim_func, …     the other flags of neighbours, with underscores
  dtype=bfloat16              format of the weights [default: float32]
  max_length=N                most tokens that the model reads at once [default: its positions]
  max_gen_toks=N              most tokens of a generated text [default: 256, or as its task says]
  add_bos_token, prefix_token_id   as those of the harness's model hf
  tokenizer, bpe, …           with a checkpoint: how it reads raw text

examples:
  {PROG} --model_args path=SmolLM2-135M --tasks hellaswag

  # with and without neighbours
  {PROG} --model_args path=SmolLM2-135M,dstore_filename=store/dstore,indexfile=store/knn.index,lmbda=0.25 \\
      --tasks wikitext lambada_openai --output_path results

  # a task of your own, from a file
  {PROG} --model_args path=checkpoints/checkpoint_best.pt,data=data-bin --tasks my_task.yaml
"""
_SUBCOMMANDS = ("run", "ls", "validate")


@dataclass(frozen=True)
class _Given:
    """What was typed for the harness, as far as it is needed before the harness reads it; the rest as ``words``."""

    words: tuple[str, ...]
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    output_path: str | None = None
    use_cache: str | None = None
    batch_size: str | None = None


def main(argv: Sequence[str]) -> None:
    """Runs the harness."""
    if not argv or {"-h", "--help"} & set(argv[:1]):
        (sys.stdout if argv else sys.stderr).write(HELP)
        sys.exit(0 if argv else 2)
    if "--version" in argv:
        sys.stdout.write(f"{PROG} {__version__}\n")
        sys.exit(0)
    compare, words = _without_own(argv)
    _require_harness()
    subcommand = words.pop(0) if words[:1] and words[0] in _SUBCOMMANDS else "run"
    if subcommand != "run" or {"-h", "--help"} & set(words):
        _harness([subcommand, *words])
        return
    given = _given(words)

    from fairseq.harness.model import one_model

    if given.model not in (None, MODEL):  # another model of the harness, for a comparison
        _harness(["run", *words])
        return
    config = _checked(given)
    if given.output_path is None and {"-s", "--log_samples", "-x", "--predict_only"} & set(words):
        raise ConfigError("--log_samples writes a file for each task; give --output_path DIR, where they are to be")
    sides = (WITH, ALONE) if config.has_neighbours and compare else ("",)
    with ExitStack() as stack, one_model():
        output = given.output_path or stack.enter_context(tempfile.TemporaryDirectory())
        outputs = [_beside(Path(output), side) for side in sides]
        for path in outputs:  # before the work, rather than after it
            (path.parent if path.suffix == ".json" else path).mkdir(parents=True, exist_ok=True)
        found = [_evaluated(given, side, path) for side, path in zip(sides, outputs, strict=True)]
    if len(sides) > 1:
        from fairseq.harness.results import beside_each_other

        mixed, alone = found
        sys.stdout.write(f"\n{beside_each_other(alone, mixed)}\n")


def _evaluated(given: _Given, side: str, output: Path) -> Mapping[str, Any]:
    """Returns the results of one evaluation; where they are not wanted, nothing.

    Raises:
        DataError: the harness could not write them, which it only warns of.
    """
    from fairseq.harness.results import files_of, read_results

    earlier = files_of(output)
    _harness(["run", *_for_side(given, side, output)])
    return read_results(output, earlier) if given.output_path or side else {}


def _without_own(argv: Sequence[str]) -> tuple[bool, list[str]]:
    """Returns whether both are wanted, and what is the harness's: flags with underscores, as it spells them."""
    parser = argparse.ArgumentParser(prog=PROG, add_help=False, allow_abbrev=False)
    parser.add_argument("--compare", action=argparse.BooleanOptionalAction, default=True)
    for name in ("--user-dir", "--log-file", "--log-format"):  # taken by ``run``
        parser.add_argument(name)
    for name in ("--no-progress-bar", "--traceback"):
        parser.add_argument(name, action="store_true")
    ours = {spelling for action in parser._actions for spelling in action.option_strings}
    words = [hyphens(word) if hyphens(word).partition("=")[0] in ours else word for word in argv]
    found, rest = parser.parse_known_args(words)
    return found.compare, [_underscored(word) for word in rest]


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _given(words: Sequence[str]) -> _Given:
    """Returns what is needed of the harness's flags, those of ``--config`` among them.

    Raises:
        ConfigError: ``--model_args`` that are no settings.
    """
    parser = argparse.ArgumentParser(prog=PROG, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", "-M")
    parser.add_argument("--model_args", "-a", nargs="+", action="extend")
    parser.add_argument("--output_path", "-o")
    parser.add_argument("--use_cache", "-c")
    parser.add_argument("--batch_size", "-b")
    parser.add_argument("--config", "-C")
    typed = vars(parser.parse_known_args(words)[0])
    written = _read_config(typed.pop("config", None))
    args = [written.get("model_args") or {}, *typed.pop("model_args", [])]
    merged = {name: value for each in args for name, value in _settings(each).items()}
    named = {name: written.get(name) for name in ("model", "output_path", "use_cache", "batch_size")} | typed
    parser = argparse.ArgumentParser(prog=PROG, add_help=False, allow_abbrev=False)
    parser.add_argument("--model_args", "-a", nargs="+", action="extend")
    return _Given(tuple(parser.parse_known_args(words)[1]), model_args=merged, **named)


def _read_config(path: str | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise DataError(f"--config {path} is not YAML ({' '.join(str(err).split())[:160]})") from err
    if not isinstance(found, dict):
        raise DataError(f"--config {path} must hold names and values, but holds {type(found).__name__}")
    return found


def _settings(given: Any) -> dict[str, Any]:
    """Returns ``a=1,b=2``, or JSON, as the harness reads it."""
    if isinstance(given, Mapping):
        return dict(given)
    if str(given).lstrip().startswith("{"):
        try:
            return dict(json.loads(given))
        except ValueError as err:
            raise ConfigError(f"--model_args {given} is not JSON ({err})") from err
    pieces = [piece for piece in str(given).split(",") if piece]
    if not all("=" in piece for piece in pieces):
        raise ConfigError(f"--model_args must be name=value,…, but one is {given}")

    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(",".join(pieces)))


def _checked(given: _Given) -> Any:
    """Returns the settings of the model, after a look whether its files are there."""
    from fairseq.harness.model_args import HarnessConfig
    from fairseq.hub.text_settings import text_settings
    from fairseq.storage.inputs import require_checkpoint

    config = HarnessConfig.of(given.model_args, text_settings())
    if Path(config.path).suffix in (".pt", ".pth"):
        require_checkpoint(config.path)
    return config


def _for_side(given: _Given, side: str, output: Path) -> list[str]:
    """Returns the harness's arguments for one of the two evaluations: the model alone has no settings of neighbours."""
    from fairseq.harness.model_args import without_neighbours

    args = without_neighbours(given.model_args) if side == ALONE else given.model_args
    written = json.dumps(args, ensure_ascii=False, default=str)
    words = [*given.words, "--model", MODEL, "--model_args", written]
    if given.batch_size is None:  # the harness's default is 1
        words += ["--batch_size", "auto"]
    if given.output_path or side:
        words += ["--output_path", str(output)]
    if given.use_cache:  # answers of one model, or one λ, are not another's
        settings = hashlib.sha256(json.dumps(args, sort_keys=True, default=str).encode()).hexdigest()[:12]
        words += ["--use_cache", "_".join(filter(None, (given.use_cache, side, settings)))]
    return words


def _beside(output: Path, side: str) -> Path:
    if not side:
        return output
    return output.with_name(f"{output.stem}_{side}.json") if output.suffix == ".json" else output / side


def _require_harness() -> None:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ConfigError(f"{PROG} needs the package lm-eval; pip install 'fairseq-knnlm[lm-eval]'")
    if Path(spec.origin).resolve() == Path(__file__).resolve():
        raise ConfigError(f"this file is not to be run by its path; run {PROG}, or python -m fairseq_cli.lm_eval")


def _harness(words: Sequence[str]) -> None:
    """Runs the harness's own command.

    Raises:
        ConfigError: it refuses what was typed.
    """
    from lm_eval.__main__ import cli_evaluate

    with _arguments([PROG, *words]):
        try:
            cli_evaluate()
        except FairseqError:
            raise
        except ValueError as err:
            raise ConfigError(f"lm-eval: {' '.join(str(err).split())[:400]}") from err
        except TypeError as err:
            if "__init__()" not in str(err):
                raise
            raise ConfigError(
                f"lm-eval: {err}; give that --model the --model_args of its own (hf: pretrained=DIR)"
            ) from err


@contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run(PROG, main))


if __name__ == "__main__":
    cli_main()
