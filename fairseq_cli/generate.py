"""``fairseq-generate``: continues the beginnings of a split's blocks."""

import sys
from collections.abc import Sequence

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig
from fairseq.data.config import IN_FORCE_WITHOUT_CHECKPOINT
from fairseq.errors import ConfigError
from fairseq.generate.config import SplitPromptsConfig
from fairseq.runtime.interrupts import advising
from fairseq.runtime.log import logger
from fairseq_cli.shared.generation_run import OUTPUT, generation_groups, open_run
from fairseq_cli.shared.run import run

DESCRIPTION = """Continue the first --prefix-size tokens of each block of a split: with the most probable texts, or with
random ones (--sampling). --knnlm mixes in the nearest neighbours from a datastore."""
STOPPED = "nothing is kept but the texts that were printed; the same command starts from the first prompt"
EXAMPLES = (
    """fairseq-generate data-bin --path checkpoints/checkpoint_best.pt --gen-subset valid \\
    --prefix-size 20 --max-len-b 50""",
    """# random texts, with neighbours, and the 3 rows with the largest votes for each token
fairseq-generate data-bin --path checkpoints/checkpoint_best.pt --gen-subset valid --prefix-size 20 \\
    --sampling --sampling-topp 0.9 --beam 1 --knnlm --dstore-filename checkpoints/dstore \\
    --indexfile checkpoints/knn.index --lmbda 0.25 --knn-temp auto --show-neighbours 3""",
    """# a Hugging Face model, on text that fairseq-preprocess --tokenizer SmolLM2-135M wrote
fairseq-generate data --path SmolLM2-135M --gen-subset valid --prefix-size 20 --max-len-b 50""",
)


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return generation_groups(SplitPromptsConfig)


def main(argv: Sequence[str]) -> None:
    """Generates."""
    flags = parse(
        "fairseq-generate", DESCRIPTION, flag_groups(), argv, EXAMPLES, OUTPUT, remarks=IN_FORCE_WITHOUT_CHECKPOINT
    )
    config = flags.build(SplitPromptsConfig)
    opened = open_run(flags, config.gen_subset)
    dataset = opened.task.load_split(config.gen_subset)
    ids = range(config.shard_id, len(dataset), config.num_shards)
    if not len(ids):
        raise ConfigError(
            f"--shard-id {config.shard_id} has nothing to do: there are only {len(dataset)} blocks; lower --num-shards"
        )

    from fairseq.runtime.progress import Progress

    blocks = [dataset.tokens[dataset.starts[idx] : dataset.ends[idx]].astype("int64") for idx in ids]
    prompts = [block_T[: config.prefix_size] for block_T in blocks]
    num_tokens = 0
    # A line of progress every few seconds, unless batches were asked for.
    every = flags.build(CommonConfig).log_interval if "log_interval" in flags.typed else None
    with advising(STOPPED), Progress("generate", len(ids), "prompts", every=every) as progress:
        for batch, found in opened.texts(prompts, ids):
            for i, texts in zip(batch, found, strict=True):
                most = opened.generator.most_tokens(len(prompts[i]))
                opened.print_texts(ids[i], prompts[i], texts, blocks[i][len(prompts[i]) :][:most])
                num_tokens += sum(len(text.tokens_T) for text in texts)
            progress.advance(len(batch))
        seconds = progress.elapsed_s
    logger.info(
        "Generated %s tokens for %s prompts in %.1fs (%.2f tokens/s)",
        f"{num_tokens:,}",
        f"{len(ids):,}",
        seconds,
        num_tokens / max(seconds, 1e-9),
    )


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-generate", main))


if __name__ == "__main__":
    cli_main()
