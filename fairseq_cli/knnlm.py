"""``fairseq-knnlm``: look after the files of a kNN-LM: check, info, adopt, convert."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairseq import __version__
from fairseq.config import Flags
from fairseq.errors import ConfigError, DatastoreError, did_you_mean
from fairseq.files import write_json
from fairseq.knn.config import AdoptConfig, CheckConfig, ConvertConfig, InfoConfig
from fairseq.log import log_format_of
from fairseq.options import parse
from fairseq.run_config import CommonConfig
from fairseq_cli.run import run

PROG = "fairseq-knnlm"


def check(flags: Flags) -> None:
    """Prints a line for each finding, and fails if one of them has."""
    config, common = flags.build(CheckConfig), flags.build(CommonConfig)
    flags.warn_unused()
    from fairseq.knn.check import check_all

    findings = []
    for finding in check_all(config, log_format_of(common)):
        findings.append(finding)
        sys.stdout.write(f"{finding.line}\n")
        sys.stdout.flush()
    if config.json is not None:
        write_json(config.json, [vars(finding) for finding in findings])
    failed = [finding.what for finding in findings if finding.status == "FAILED"]
    if failed:
        raise DatastoreError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(dict.fromkeys(failed))}")


def info(flags: Flags) -> None:
    """Prints what a file is."""
    config = flags.build(InfoConfig)
    flags.build(CommonConfig)
    flags.warn_unused()
    from fairseq.knn.info import describe_file

    assert config.file is not None
    for name, value in describe_file(config.file).items():
        sys.stdout.write(f"{name + ':':<18} {value}\n")


def adopt(flags: Flags) -> None:
    """Gives a datastore of another tool a manifest."""
    config, common = flags.build(AdoptConfig), flags.build(CommonConfig)
    flags.warn_unused()
    from fairseq.knn.adopt import adopt_datastore

    prefix, manifest = adopt_datastore(config, log_format_of(common))
    sys.stdout.write(
        f"Datastore {prefix}: {manifest.rows} rows, {manifest.key_dtype} keys of width {manifest.dimension},"
        f" {manifest.value_dtype} values\n"
    )


def convert(flags: Flags) -> None:
    """Writes weights in the other format."""
    config = flags.build(ConvertConfig)
    flags.build(CommonConfig)
    flags.warn_unused()
    from fairseq.convert import convert_weights

    assert config.source is not None and config.to is not None
    convert_weights(config.source, config.to, overwrite=config.overwrite)
    sys.stdout.write(f"Wrote {config.to}\n")


@dataclass(frozen=True)
class Subcommand:
    """One subcommand: its work, its flags, and what --help says of it."""

    run: Callable[[Flags], None]
    config: type
    summary: str


SUBCOMMANDS = {
    "check": Subcommand(check, CheckConfig, "Verify what goes into a run: sizes, hashes, ids, keys, recall."),
    "info": Subcommand(info, InfoConfig, "Print what a file is."),
    "adopt": Subcommand(adopt, AdoptConfig, "Give a datastore of another tool a manifest; mend its values."),
    "convert": Subcommand(convert, ConvertConfig, "Write weights as safetensors, or the other way round."),
}


def help_text() -> str:
    """Returns the list of subcommands."""
    lines = [f"usage: {PROG} SUBCOMMAND [flags]; {PROG} SUBCOMMAND --help lists its flags", ""]
    return "\n".join([*lines, *(f"  {name:<8} {sub.summary}" for name, sub in SUBCOMMANDS.items())]) + "\n"


def main(argv: Sequence[str]) -> None:
    """Runs the subcommand that ``argv`` begins with."""
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(help_text())
        sys.exit(0)
    if argv[0] == "--version":
        sys.stdout.write(f"{PROG} {__version__}\n")
        sys.exit(0)
    name, *words = argv
    if name not in SUBCOMMANDS:
        known = ", ".join(SUBCOMMANDS)
        raise ConfigError(f"{name} is no subcommand of {PROG}{did_you_mean(name, SUBCOMMANDS)} (known: {known})")
    subcommand = SUBCOMMANDS[name]
    subcommand.run(parse(f"{PROG} {name}", subcommand.summary, (subcommand.config, CommonConfig), words))


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run(PROG, main))


if __name__ == "__main__":
    cli_main()
