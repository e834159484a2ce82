"""``fairseq-build-dstore``, or ``python build_dstore.py``: the FAISS index of a datastore."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig
from fairseq.config.flags import flag_name
from fairseq.knn.index.config import AUTO, BuildConfig
from fairseq.runtime.log import logger
from fairseq.storage.outputs import claim_index
from fairseq_cli.shared.run import run

PROG = CALL = "fairseq-build-dstore"
if __name__ == "__main__":
    PROG = CALL = "python -m build_dstore"
    if __spec__ is None:
        PROG, CALL = "build_dstore.py", "python build_dstore.py"
DESCRIPTION = """Build the FAISS index of a datastore. A stopped build goes on when the same command is given again."""
EXAMPLES = (
    f"""{CALL} --dstore-mmap checkpoints/dstore --faiss-index checkpoints/knn.index --index-spec auto""",
    f"""# after fairseq-eval-lm --save-knnlm-dstore --append
{CALL} --dstore-mmap checkpoints/dstore --faiss-index checkpoints/knn.index --append""",
    f"""# by shards; a job array gives each job its --shard-id, and merges in the end
{CALL} --dstore-mmap checkpoints/dstore --faiss-index checkpoints/knn.index --num-shards 4 --merge memory""",
)


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return (BuildConfig, CommonConfig)


def main(argv: Sequence[str]) -> None:
    """Builds an index and prints where it is."""
    flags = parse(PROG, DESCRIPTION, flag_groups(), argv, EXAMPLES)
    config = flags.build(BuildConfig)
    flags.build(CommonConfig)
    flags.warn_unused()
    for name in ("ncentroids", "code_size"):
        if config.index_spec is not None and name in flags.typed:
            logger.warning("%s has no effect: --index-spec %s decides it", flag_name(name), config.index_spec)
    if config.index_spec != AUTO and "recall" in flags.typed:
        logger.warning("--recall has no effect without --index-spec auto")
    if config.append:
        for name in ("index_spec", "ncentroids", "code_size", "probe", "effort", "seed", "train_sample"):
            if name in flags.typed and not (config.retrain and name in ("seed", "train_sample")):
                logger.warning("%s has no effect: --append keeps what the index was built with", flag_name(name))
    assert config.dstore_mmap is not None and config.faiss_index is not None
    claim_index("--faiss-index", Path(config.faiss_index), overwrite=config.overwrite)

    from fairseq.knn.datastore.store import Datastore
    from fairseq.knn.index.append import append_to_index
    from fairseq.knn.index.build import build_index
    from fairseq.knn.shards.build import build_in_shards

    start = time.monotonic()
    datastore = Datastore.open(
        config.dstore_mmap, rows=config.dstore_size, dimension=config.dimension, key_fp16=config.dstore_fp16
    )
    if config.num_shards is not None:
        built = build_in_shards(datastore, config, config.faiss_index)
    else:
        build = append_to_index if config.append else build_index
        built = [build(datastore, config, config.faiss_index)]
    rows, num_bytes = sum(one.rows for one in built), sum(one.size for one in built)
    where = f"Index {config.faiss_index}"
    if built[0].shard and config.shard_id is not None:
        where += f", shard {config.shard_id} of {config.num_shards}"
    elif built[0].shard:
        where += f" in {config.num_shards} shards"
    sys.stdout.write(
        f"{where}: {rows} keys in {time.monotonic() - start:.1f}s, {num_bytes / rows:.1f} bytes per key"
        f" ({built[0].spec})\n"
    )


def cli_main() -> None:
    """Entry point."""
    sys.exit(run(PROG, main))


if __name__ == "__main__":
    cli_main()
