"""Settings of ``fairseq-eval-lm`` and ``fairseq-score-lm``: every config of one run, and which of them go together."""

from typing import TYPE_CHECKING, Any, TypeVar

from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import Flags, as_dict, flag_name, resolve
from fairseq.errors import ConfigError
from fairseq.evaluate.config import CacheConfig, EvalConfig
from fairseq.knn.config import KNNConfig, RetrievalConfig
from fairseq.knn.datastore.config import DatastoreConfig, DumpConfig
from fairseq.knn.weight.config import LmbdaModelConfig
from fairseq.runtime.log import logger

if TYPE_CHECKING:
    pass

T = TypeVar("T")
DESCRIPTION = """Evaluate a language model on a split of binarised data; with --knnlm, mixed with the votes of
neighbours from a datastore; with --cache-size, of the text's own last words; with --save-knnlm-dstore, write the
split's datastore instead."""


class Settings:
    """Every config of one run of the command."""

    def __init__(self, flags: Flags) -> None:
        self.common = flags.build(CommonConfig)
        self.eval = flags.build(EvalConfig)
        self.device = flags.build(DeviceConfig)
        self.knn = _built_if(flags, KNNConfig, "knnlm")
        self.weight = _built_if(flags, LmbdaModelConfig, "lmbda_model")
        self.retrieval = _built_if(flags, RetrievalConfig, "save_retrieval")
        self.dump = _built_if(flags, DumpConfig, "save_knnlm_dstore")
        self.dstore = _built_if(flags, DatastoreConfig, "knnlm", "save_knnlm_dstore")
        self.cache = _built_if(flags, CacheConfig, "cache_size")
        # A line of progress every few seconds, unless batches were asked for.
        self.log_every = self.common.log_interval if "log_interval" in flags.typed else None
        if self.dump.save_knnlm_dstore:
            for name in ("results_path", "output_word_probs", "output_word_stats", "remove_bpe", "cache_size"):
                if name in flags.typed:
                    logger.warning("%s has no effect: --save-knnlm-dstore scores nothing", flag_name(name))
        saving = self.retrieval.save_retrieval is not None
        if saving and not self.knn.knnlm:
            raise ConfigError("--save-retrieval keeps neighbours, but there are none; give --knnlm and its datastore")
        if saving and self.eval.num_shards > 1:
            raise ConfigError("--save-retrieval keeps a whole split and cannot be sharded; leave --num-shards out")
        self._check_lmbda_model(flags)
        if self.knn.knnlm and not self.needs_neighbours:
            logger.warning(
                "--knnlm has no effect with --lmbda 0: neighbours have no weight; give --lmbda, such as 0.25"
            )
        several = ":" in (self.eval.path or "")
        if several and (self.knn.knnlm or self.dump.save_knnlm_dstore):
            raise ConfigError("--path names several checkpoints, but a datastore belongs to one; give one")
        if self.knn.knnlm and self.dump.save_knnlm_dstore:
            raise ConfigError("--knnlm and --save-knnlm-dstore exclude each other; write the datastore first")
        if self.dump.save_knnlm_dstore and self.eval.num_shards > 1:
            raise ConfigError("--save-knnlm-dstore writes rows in order and cannot be sharded; leave --num-shards out")
        self.cache.check(
            num_models=2 if several else 1,
            num_shards=self.eval.num_shards,
            lmbda=self.knn.lmbda if self.knn.knnlm else None,
            prints_words=self.eval.output_word_probs or self.eval.output_word_stats,
            saves=saving,
        )

    @property
    def has_cache(self) -> bool:
        """Whether caches are computed, to be mixed in or to be kept."""
        return self.cache.is_on or (bool(self.cache.cache_size) and self.retrieval.save_retrieval is not None)

    @property
    def needs_neighbours(self) -> bool:
        """Whether neighbours are searched for."""
        saving = self.retrieval.save_retrieval is not None
        return self.knn.knnlm and (self.knn.lmbda > 0 or saving or self.weight.lmbda_model is not None)

    def _check_lmbda_model(self, flags: Flags) -> None:
        if self.weight.lmbda_model is None:
            return
        if not self.knn.knnlm:
            raise ConfigError("--lmbda-model weighs neighbours, but there are none; give --knnlm and its datastore")
        if "lmbda" in flags.typed:
            raise ConfigError("--lmbda and --lmbda-model exclude each other: the model gives each token its own λ")
        if self.cache.is_sweep:
            raise ConfigError("--lmbda-model takes one cache setting, but lists were given; give one value of each")
        if self.retrieval.save_retrieval is not None:
            raise ConfigError(
                "--save-retrieval and --lmbda-model exclude each other; fairseq-knnlm fit-lmbda --apply weighs what was"
                " saved"
            )

    def record(self, task_config: Any) -> dict[str, Any]:
        """Returns every setting in force, flat."""
        knn = (self.knn, self.weight, self.dstore) if self.knn.knnlm else ()
        cache = (self.cache,) if self.has_cache else ()
        return as_dict(self.common, self.device, self.eval, *knn, *cache, task_config)


def _built_if(flags: Flags, config: type[T], *switches: str) -> T:
    """Returns the config; its flags count as used, and are not warned of, only with one of the switches."""
    used = any(flags.typed.get(switch) for switch in switches)
    return flags.build(config) if used else resolve(config, flags.typed)
