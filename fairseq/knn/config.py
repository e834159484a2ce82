"""Flags of neighbours: which datastores are searched, how they vote, and what is kept or shown of them."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, cast

from fairseq.config.flags import as_dict, at_least, flag, resolve
from fairseq.config.keywords import in_keywords
from fairseq.config.kinds import Address, Dir, Files, Prefixes
from fairseq.config.path_lists import split_paths
from fairseq.errors import ConfigError, refuse_unknown

SIM_FUNCS = {"do_not_recomp_l2": "the index's own distance", "dot": "inner product, from the stored keys"}
METRICS = ("l2", "ip")
BACKENDS = {"local": "in this process, with the files mapped", "ray": "by Ray, an actor for each shard"}
# Of squared distances in float32; of less, and of no larger gap than rounding makes, nothing but the nearest is left.
LEAST_TEMPERATURE = 1e-9
AUTO: Literal["auto"] = "auto"
KnnTemp: TypeAlias = float | Literal["auto"]
# Of the unit, the median squared distance from a row to the nearest other one: what ``auto`` stands for, and what it
# stands for where several T are tried. docs/temperature.md has the measurements.
AUTO_SHARE = 2.0
AUTO_SHARE_OF_TOKENS = 0.2  # of a Hugging Face model, which is surer of itself: only near neighbours help it
AUTO_GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True)
class RetrievalConfig:
    """Keeping every token's neighbours, for sweep, report and fit-lmbda."""

    save_retrieval: Dir | None = flag(
        None, "with --knnlm: write every token's neighbours (rows, distances, hits) to this directory"
    )
    overwrite: bool = flag(False, "replace existing files, if this program wrote them")


@dataclass(frozen=True)
class OwnRowConfig:
    """Evaluating a text that the datastore was written from."""

    exclude_own_row: bool = flag(
        False,
        "with --knnlm: no token finds its own row",
    )


@dataclass(frozen=True)
class KNNConfig:
    """Neighbours (kNN-LM)."""

    knnlm: bool = flag(False, "mix the model's prediction with that of the nearest neighbours")
    dstore_filename: Prefixes | None = flag(
        None,
        "with --knnlm: prefix of the datastore's files (PREFIX_keys.npy, PREFIX_vals.npy); A:B searches several"
        r" together (a colon in a name: \:)",
    )
    indexfile: Files | None = flag(
        None, "with --knnlm: FAISS index of the datastore; for several datastores one each, in the same order"
    )
    k: int = flag(1024, "neighbours of a token", minimum=1, maximum=(1 << 31) - 1)
    rerank: int | None = flag(
        None,
        "neighbours that the index finds; the k nearest of them by exact distance vote [default: --k]",
        minimum=1,
        maximum=(1 << 31) - 1,
    )
    probe: int = flag(
        8, "inverted lists of the index that a search visits; more lists find more, and take longer", minimum=1
    )
    lmbda: float = flag(
        0.0, "weight λ of the neighbours: p = (1 − λ) p_LM + λ p_kNN; such as 0.25", minimum=0, maximum=1
    )
    knn_temp: float | Literal["auto"] = flag(
        1.0,
        "temperature T: a neighbour's weight is exp(−distance / T); auto takes T from the distances between the"
        " datastore's rows",
        minimum=LEAST_TEMPERATURE,
    )
    knn_sim_func: str | None = flag(
        None,
        "distance that neighbours are weighed by [default: exact squared L2, from the stored keys]",
        choices=SIM_FUNCS,
    )
    faiss_metric_type: str = flag("l2", "metric that the index was built for", choices=METRICS)
    no_load_keys: bool = flag(
        False, "do not read the stored keys (needs --knn-sim-func do_not_recomp_l2, or an inner-product index)"
    )
    move_dstore_to_mem: bool = flag(False, "read the datastore into memory before the first search")
    map_index: bool = flag(
        False, "leave the index in its file, of which a search reads what it visits: for an index larger than memory"
    )
    drop_top1: bool = flag(
        False, "ignore the nearest neighbour (to leave out a token's own row, use --exclude-own-row of fairseq-eval-lm)"
    )
    gpu_index: bool = flag(False, "search on the GPU (needs the GPU build of FAISS)")
    allow_mismatch: bool = flag(False, "only warn if datastore, index, dictionary and model do not belong together")
    by_query: bool = flag(
        False,
        "let FAISS search for one query after the other, as shards do: slower than list by list for many queries, and"
        " equal to shards in the last digits",
    )
    knn_backend: str = flag(
        "local", "where the shards of an index are searched (fairseq-build-dstore --num-shards)", choices=BACKENDS
    )
    ray_address: Address | None = flag(
        None, "with --knn-backend ray: address of the cluster [default: that of this machine's, else a new one]"
    )
    knn_timeout: float = flag(
        600.0, "with --knn-backend ray: seconds to wait for a shard's answer, restarts included", minimum=0.1
    )
    knn_in_flight: int = flag(2, "blocks of queries that shards of an index are asked at once", minimum=1)

    def __post_init__(self) -> None:
        if self.knnlm and not (self.dstore_filename and self.indexfile):
            missing = " and ".join(
                name
                for name, value in (("--dstore-filename", self.dstore_filename), ("--indexfile", self.indexfile))
                if not value
            )
            raise ConfigError(f"--knnlm needs a datastore and its index; give {missing} as well")
        if self.knnlm:
            paired_names(self.dstore_filename or "", self.indexfile or "")
        check_temperature(self.knn_temp)
        if self.knn_temp == AUTO and self.is_inner_product:
            raise ConfigError(
                "--knn-temp auto is taken from squared distances, but p_kNN is of inner products here; give a number"
            )
        if self.rerank is not None and self.rerank < self.k:
            raise ConfigError(
                f"--rerank {self.rerank} must be at least --k {self.k}: the k nearest are taken from them"
            )
        if self.map_index and self.gpu_index:
            raise ConfigError(
                "--map-index leaves the index on the disk, --gpu-index copies it to the GPU; leave one of them out"
            )
        if self.no_load_keys and self.needs_keys:
            raise ConfigError(
                f"--no-load-keys leaves nothing to compute {'inner products' if self.knn_sim_func else 'distances'}"
                " from; add --knn-sim-func do_not_recomp_l2, or load the keys"
            )

    @property
    def stores(self) -> tuple[tuple[str, str], ...]:
        """Each datastore's prefix and index."""
        return paired_names(self.dstore_filename or "", self.indexfile or "")

    @property
    def is_inner_product(self) -> bool:
        """Whether p_kNN's distances are inner products, and no squared distances."""
        return self.knn_sim_func == "dot" or self.faiss_metric_type == "ip"

    def what_to_choose(self, *, is_fitted: bool = False, sweep: str = "sweep") -> str:
        """Returns what to do where the mixture is worse than the model alone.

        Args:
            is_fitted: each token has its own λ.
            sweep: the command of ``fairseq-knnlm`` that tries weights.
        """
        if is_fitted:
            return "fit λ anew on a text like this one: --save-retrieval DIR, then fairseq-knnlm fit-lmbda DIR"
        choose = f"choose λ and T on the valid split: --save-retrieval DIR, then fairseq-knnlm {sweep} DIR"
        has_auto = self.knn_temp == 1 and not self.is_inner_product
        return f"{choose}; --knn-temp auto takes T from the distances" if has_auto else choose

    @property
    def needs_keys(self) -> bool:
        """Whether p_kNN is computed from the stored keys; an inner-product index's own scores are exact enough."""
        return self.knn_sim_func == "dot" or (self.knn_sim_func is None and self.faiss_metric_type == "l2")


def check_temperature(temperature: KnnTemp) -> None:
    """Raises ConfigError for a ``--knn-temp`` that no distances can be divided by."""
    if temperature != AUTO and not LEAST_TEMPERATURE <= temperature < math.inf:
        least = at_least(LEAST_TEMPERATURE, temperature)
        raise ConfigError(f"--knn-temp must be {least}, and finite, but is {temperature}")


def multiple(unit: float, factor: float) -> float:
    """Returns a multiple of a unit, of three digits: a T that can be typed as it is printed."""
    return float(f"{unit * factor:.3g}")


class NeighbourSettings(TypedDict, total=False):
    """Fields of ``KNNConfig`` that are keywords in Python, ``temperature`` for ``knn_temp`` among them."""

    rerank: int | None
    probe: int
    knn_temp: KnnTemp
    temperature: KnnTemp
    knn_sim_func: str | None
    faiss_metric_type: str
    no_load_keys: bool
    move_dstore_to_mem: bool
    map_index: bool
    drop_top1: bool
    gpu_index: bool
    allow_mismatch: bool
    by_query: bool
    knn_backend: str
    ray_address: str | None
    knn_timeout: float
    knn_in_flight: int


class KNNSettings(NeighbourSettings, total=False):
    """The keywords of ``KNN_Dstore.open``; ``KNN`` takes the first two by position as well."""

    k: int
    lmbda: float


# What Python calls flags that are arguments there.
KEYWORDS = {"dstore_filename": "prefix", "dstore_size": "rows", "dstore_fp16": "key_fp16"}
# What other programs, and the formulas of the papers, call a setting.
_OTHER_WORDS = {
    **dict.fromkeys(("lambda_", "lam", "lamda", "weight"), "lmbda"),
    **dict.fromkeys(("temp", "knn_temperature", "t", "T"), "temperature"),
    **dict.fromkeys(("nprobe", "n_probe"), "probe"),
    **dict.fromkeys(("n_neighbors", "n_neighbours", "num_neighbors", "neighbours", "neighbors", "top_k"), "k"),
    **dict.fromkeys(("metric", "metric_type"), "faiss_metric_type"),
}


def with_settings(config: KNNConfig, settings: KNNSettings, caller: str) -> KNNConfig:
    """Returns the config with some settings replaced; ``temperature`` is Python's word for ``knn_temp``.

    Raises:
        ConfigError: ``caller`` has no such setting, a value is out of range, or both words are given.
    """
    refuse_unknown(settings, KNNSettings.__annotations__, caller, _OTHER_WORDS)
    fields = cast("dict[str, object]", dict(settings))
    renamed = dict(KEYWORDS)
    if "temperature" in fields:
        if "knn_temp" in fields:
            raise ConfigError("temperature and knn_temp are two words for the same number; give one")
        fields["knn_temp"] = fields.pop("temperature")
        renamed["knn_temp"] = "temperature"
    with in_keywords(KNNConfig, **renamed):
        return resolve(KNNConfig, as_dict(config), fields)


def paired_names(prefixes: str, indexfiles: str) -> tuple[tuple[str, str], ...]:
    """Returns the datastores and indexes of ``A:B`` and ``A.index:B.index``, in pairs.

    Raises:
        ConfigError: not as many of one as of the other, or a name is empty.
    """
    stores, indexes = split_paths(prefixes), split_paths(indexfiles)
    for name, text, names in (("--dstore-filename", prefixes, stores), ("--indexfile", indexfiles, indexes)):
        if not all(names):
            raise ConfigError(f"{name} must be names separated by colons, but is {text!r}; give a name at every place")
    if len(stores) != len(indexes):
        raise ConfigError(
            f"--dstore-filename names {len(stores)}, but --indexfile {len(indexes)}; give each datastore its index, in"
            " the same order, separated by colons"
        )
    return tuple(zip(stores, indexes, strict=True))


def several_sizes(rows: int, count: int) -> str:
    """Returns what is wrong with ``--dstore-size`` and several datastores."""
    return (
        f"--dstore-size {rows} is of one datastore, but --dstore-filename names {count}; leave it out: the manifests"
        " know"
    )


@dataclass(frozen=True)
class ShowNeighboursConfig:
    """Showing neighbours."""

    show_neighbours: int | None = flag(
        None,
        "with --knnlm: print the N neighbours with the largest votes for each token (8 if N is left out)",
        optional_value="8",
        minimum=1,
    )
