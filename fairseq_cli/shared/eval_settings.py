"""Settings of ``fairseq-eval-lm`` and ``fairseq-score-lm``: the configs of one run, and which of them go together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairseq.checkpoints.hub_names import local_directory
from fairseq.checkpoints.huggingface import is_model_directory
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.fairseq_fields import defaults_of
from fairseq.config.flags import Flags, as_dict, flag_name
from fairseq.config.path_lists import join_paths, split_paths
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import ConfigError
from fairseq.evaluate.config import CacheConfig, EvalConfig, times_path
from fairseq.knn.config import AUTO, KNNConfig, OwnRowConfig, RetrievalConfig
from fairseq.knn.datastore.config import DatastoreConfig, DumpConfig
from fairseq.knn.weight.config import LmbdaModelConfig
from fairseq.runtime.log import logger
from fairseq.storage.file_kinds import is_hub_name
from fairseq.storage.files import is_stream
from fairseq.storage.inputs import require_inputs
from fairseq.storage.marks import RESULTS, TIMES, json_at
from fairseq.storage.outputs import claim, claim_all, claim_datastore, claim_directory, same_command
from fairseq.storage.stores import retrieval_names
from fairseq.tasks import TASKS, reads_splits
from fairseq_cli.shared.processes import world_size

# Neighbours that lower perplexity by less, or of which the nearest has more of the vote, may want another T. Of fewer
# neighbours the nearest has much of the vote whatever T is.
SMALL_GAIN, LARGE_SHARE, MANY = 0.01, 0.5, 8


def task_fields(flags: Flags, task: str, path: str, split: str | None = None) -> dict[str, Any]:
    """Returns what was typed of the task's settings, after a look whether checkpoints, data and split are there.

    Without a split, a Hugging Face model needs no data: its directory has the tokenizer.
    """
    config = TASKS.config(task)
    assert config is not None
    given = flags.given(config)
    if not reads_splits(task):
        return given
    if split is None and given.get("data") is None and is_model(path):
        given["data"] = join_paths([local_directory(path) if is_hub_name(path) else path])
    require_inputs(path, str(given.get("data") or data_of(flags, task)), split)
    return given


def is_model(path: str) -> bool:
    """Returns whether ``--path`` names a Hugging Face model: its directory, or its name on the hub."""
    return is_model_directory(path) or is_hub_name(path)


def data_of(flags: Flags, task: str) -> str:
    """Returns where the data of a task is, one that reads splits."""
    default = defaults_of(TASKS.config(task) or LanguageModelingConfig).get("data")
    return str(flags.typed.get("data", default or LanguageModelingConfig.data))


class NeighbourSettings:
    """Which neighbours are searched for, and how they are weighed.

    Args:
        flags: what was typed.
        path: the checkpoints, joined by colons.
        saved: all neighbours are kept, whatever their weight.
    """

    def __init__(self, flags: Flags, path: str, *, saved: bool = False) -> None:
        self.weight = flags.build_if(LmbdaModelConfig, "lmbda_model")
        self.knn = flags.build_if(KNNConfig, "knnlm", weaker=_fitted_settings(self.weight.lmbda_model))
        if self.weight.lmbda_model is not None and self.knn.knn_temp == AUTO:  # the best one was looked for already
            self.knn = replace(self.knn, knn_temp=_fitted_settings(self.weight.lmbda_model)["knn_temp"])
        self.dstore = flags.build_if(DatastoreConfig, "knnlm", "save_knnlm_dstore")
        if self.weight.lmbda_model is not None:
            if not self.knn.knnlm:
                raise ConfigError("--lmbda-model weighs neighbours, but there are none; give --knnlm and its datastore")
            if "lmbda" in flags.typed:
                raise ConfigError("--lmbda and --lmbda-model exclude each other: the model gives each token its own λ")
        self.needed = self.knn.knnlm and (self.knn.lmbda > 0 or self.weight.lmbda_model is not None or saved)
        if self.knn.knnlm and not self.needed:
            logger.warning(
                "--knnlm has no effect with --lmbda 0: neighbours have no weight; give --lmbda, such as 0.25"
            )
        if (self.knn.knnlm or flags.typed.get("save_knnlm_dstore")) and len(split_paths(path)) > 1:
            raise ConfigError("--path names several checkpoints, but a datastore belongs to one; give one")


def _tell_reading_from_writing(flags: Flags) -> None:
    """Raises ConfigError where the flag of the datastore to write was given for the one to read, or the reverse."""
    reading, writing = (flags.typed.get(name) for name in ("dstore_filename", "dstore_mmap"))
    if flags.typed.get("knnlm") and flags.typed.get("save_knnlm_dstore"):
        raise ConfigError("--knnlm and --save-knnlm-dstore exclude each other; write the datastore first")
    if flags.typed.get("knnlm") and writing and not reading:
        raise ConfigError(
            f"--dstore-mmap names a datastore to write, but --knnlm reads one; give --dstore-filename {writing}"
        )
    if flags.typed.get("save_knnlm_dstore") and reading and not writing:
        raise ConfigError(
            f"--dstore-filename names a datastore to read, but --save-knnlm-dstore writes one; give --dstore-mmap"
            f" {reading}"
        )


class EvalSettings:
    """Every config of one run of ``fairseq-eval-lm``."""

    def __init__(self, flags: Flags) -> None:
        _tell_reading_from_writing(flags)
        self.common = flags.build(CommonConfig)
        self.eval = flags.build(EvalConfig)
        self.device = flags.build(DeviceConfig)
        self.retrieval = flags.build_if(RetrievalConfig, "save_retrieval")
        self.dump = flags.build_if(DumpConfig, "save_knnlm_dstore")
        self.cache = flags.build_if(CacheConfig, "cache_size")
        self.own_row = flags.build_if(OwnRowConfig, "knnlm")
        saved = self.retrieval.save_retrieval is not None
        self.neighbours = NeighbourSettings(flags, self.eval.path, saved=saved)
        self.has_cache = self.cache.is_on or (saved and bool(self.cache.cache_size))
        self._temperature_was_typed = "knn_temp" in flags.typed
        # A line of progress every few seconds, unless batches were asked for.
        self.log_every = self.common.log_interval if "log_interval" in flags.typed else None
        if saved:
            self._check_retrieval()
        self._check_processes(world_size())
        if self.own_row.exclude_own_row and self.neighbours.knn.drop_top1:
            raise ConfigError(
                "--exclude-own-row and --drop-top1 exclude each other: the row itself is left out, or the nearest one"
            )
        if self.dump.save_knnlm_dstore:
            self._check_dump(flags)
        if self.neighbours.weight.lmbda_model is not None and self.cache.is_sweep:
            raise ConfigError("--lmbda-model takes one cache setting, but lists were given; give one value of each")
        self.cache.check(
            num_models=len(split_paths(self.eval.path)),
            num_shares=max(self.eval.num_shards, world_size()),
            lmbda=self.neighbours.knn.lmbda if self.neighbours.knn.knnlm else None,
            prints_words=self.eval.output_word_probs or self.eval.output_word_stats,
            saves=saved,
        )

    def _check_retrieval(self) -> None:
        if not self.neighbours.knn.knnlm:
            raise ConfigError("--save-retrieval keeps neighbours, but there are none; give --knnlm and its datastore")
        if self.neighbours.weight.lmbda_model is not None:
            raise ConfigError(
                "--save-retrieval and --lmbda-model exclude each other; fairseq-knnlm fit-lmbda --apply weighs what was"
                " saved"
            )

    def _check_processes(self, number: int) -> None:
        """Raises ConfigError for what several processes cannot share."""
        if number > 1 and self.eval.num_shards > 1:
            raise ConfigError(
                f"--num-shards {self.eval.num_shards} shares the work among jobs, but there are {number}"
                " processes, which share it as well; leave one of the two out"
            )
        if number > 1 and self.eval.output_word_probs:
            raise ConfigError(
                f"--output-word-probs prints words in the order of the text, but there are {number} processes; run one,"
                " or a job array (--num-shards), whose outputs follow each other"
            )
        if number > 1 and self.eval.output_word_stats:
            raise ConfigError(
                f"--output-word-stats counts the words of the whole text, but there are {number} processes; run one"
            )

    def _check_dump(self, flags: Flags) -> None:
        for name in ("results_path", "output_word_probs", "output_word_stats", "post_process", "cache_size"):
            if name in flags.typed:
                logger.warning("%s has no effect: --save-knnlm-dstore scores nothing", flag_name(name))
        if self.eval.num_shards > 1 and self.dump.append:
            raise ConfigError("--append adds rows behind the others, by one process; leave --num-shards out")
        if "gen_subset" not in flags.typed:
            raise ConfigError(
                "--save-knnlm-dstore needs to know which split to write; give --gen-subset, usually --gen-subset train"
            )

    def claim_outputs(self, command: Sequence[str]) -> None:
        """Raises ConfigError where the run would write what is not its own."""
        if self.dump.save_knnlm_dstore:
            assert self.dump.dstore_mmap is not None
            prefix = Path(self.dump.dstore_mmap)
            if not self.dump.append or Path(f"{prefix}.json").is_file():  # else there is nothing to append to
                claim_datastore("--dstore-mmap", prefix, overwrite=self.dump.overwrite)
            return
        if self.retrieval.save_retrieval is not None:
            directory = claim_directory("--save-retrieval", self.retrieval.save_retrieval)
            there = (directory / "manifest.json").is_file()  # then the writer asks whether it may be replaced
            claim_all("--save-retrieval", retrieval_names(directory), overwrite=self.retrieval.overwrite or there)
        path, overwrite = self.eval.results_file, self.eval.overwrite
        if path is not None:
            earlier = json_at(path)
            repeated = same_command(command, earlier.get("command"))
            if not overwrite and not repeated and self.eval.num_shards > 1 and "shard" in earlier:
                raise ConfigError(
                    f"--results-path: {path} has the result of another job; give a directory, in which each job has a"
                    " file of its own"
                )
            claim("--results-path", path, RESULTS, overwrite=overwrite or repeated)
            if not is_stream(path):
                claim("--results-path", times_path(path), TIMES)  # they go with the results

    @property
    def what_to_choose(self) -> str:
        """What to do where the mixture is worse than the model alone."""
        if not self.neighbours.needed:
            return "lower --cache-lmbda, or give several and choose on the valid split (--cache-lmbda 0,0.05,0.1)"
        is_fitted = self.neighbours.weight.lmbda_model is not None
        sweep = "sweep-cache" if self.has_cache else "sweep"
        return self.neighbours.knn.what_to_choose(is_fitted=is_fitted, sweep=sweep)

    def about_temperature(self, gain: float, nearest_share: float | None) -> str:
        """Returns what to try where T is the default and seems too low; else nothing.

        Args:
            gain: the share by which perplexity is below that of the model alone.
            nearest_share: of p_kNN, the nearest neighbour's; None where none was found.
        """
        found = self.neighbours
        has_default = not self._temperature_was_typed and found.weight.lmbda_model is None
        has_votes = found.needed and found.knn.lmbda > 0 and found.knn.k >= MANY
        if not has_default or not has_votes or found.knn.is_inner_product:
            return ""
        if nearest_share is None or (gain >= SMALL_GAIN and nearest_share <= LARGE_SHARE):
            return ""
        return (
            f"--knn-temp was not given, and is {found.knn.knn_temp:g}: perplexity is {gain:.1%} below the model's"
            f" alone, and the nearest neighbour has {nearest_share:.1%} of p_kNN; try --knn-temp auto, which takes"
            " T from the distances"
        )

    def record(self, task_config: Any) -> dict[str, Any]:
        """Returns every setting in force, flat."""
        found = self.neighbours
        knn = (found.knn, self.own_row, found.weight, found.dstore) if found.knn.knnlm else ()
        cache = (self.cache,) if self.has_cache else ()
        settings = as_dict(self.common, self.device, self.eval, *knn, *cache, task_config)
        return {name: value for name, value in settings.items() if name != "overwrite"}


def _fitted_settings(path: str | None) -> dict[str, Any]:
    """Returns the settings of neighbours that a fitted weight was chosen with; a flag that is typed is stronger."""
    if path is None:
        return {}
    from fairseq.knn.weight.file import read_model  # torch, which takes a while to import

    model = read_model(Path(path))
    return {"k": model.k, "knn_temp": model.knn_temp}
