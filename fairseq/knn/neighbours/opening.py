"""What opens a datastore, or several that are searched together: the flags of a command, or ``KNN`` in Python."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.config.flags import flag_name
from fairseq.config.keywords import in_keywords
from fairseq.config.path_lists import join_paths
from fairseq.errors import ConfigError, shown
from fairseq.knn.config import AUTO, KEYWORDS, KNNConfig, NeighbourSettings, several_sizes, with_settings
from fairseq.knn.datastore.identity import stored_bos, stored_key_type
from fairseq.knn.distributed.opening import open_sharded
from fairseq.knn.neighbours.dstore import KNN_Dstore
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.passages import RowText
from fairseq.knn.neighbours.several_stores import SeveralStores
from fairseq.knn.shards.manifest import is_sharded
from fairseq.models.protocol import ModelIdentity

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)


def open_neighbours(
    config: KNNConfig, model: ModelIdentity | None = None, *, rows: int | None = None, key_fp16: bool = False
) -> NeighbourSource:
    """Returns what ``--dstore-filename`` and ``--indexfile`` name: a datastore, or several that are searched together.

    A datastore that is named twice with the same index is searched once, with a warning.

    Args:
        config: names and settings.
        model: that each must have been written with.
        rows: ``--dstore-size``, of one datastore.
        key_fp16: ``--dstore-fp16``, of each.

    Raises:
        ConfigError: ``rows`` with several.
        DatastoreError: a file cannot be read.
        MismatchError: they do not belong together.
    """
    pairs = config.stores
    _warn_of_no_effect(config, [is_sharded(index) for _, index in pairs])
    if rows is not None and len(pairs) > 1:
        raise ConfigError(several_sizes(rows, len(pairs)))
    if config.knn_backend != "local" and not any(is_sharded(index) for _, index in pairs):
        raise ConfigError(
            f"--knn-backend {config.knn_backend} searches an index in shards, but {pairs[0][1]} is none; leave the flag"
            " out, or build shards with fairseq-build-dstore --num-shards"
        )
    opened: dict[tuple[Path, Path], NeighbourSource] = {}
    for prefix, indexfile in pairs:
        place = Path(prefix).resolve(), Path(indexfile).resolve()
        if place in opened:
            logger.warning("%s is named twice with the index %s; it is searched once", prefix, indexfile)
            continue
        opened[place] = open_store(prefix, indexfile, config, model, rows=rows, key_fp16=key_fp16)
    members = list(opened.values())
    source = members[0] if len(members) == 1 else SeveralStores(members, config)
    _ = source.temperature  # measured before the work
    return source


def open_store(
    prefix: str | Path,
    indexfile: str | Path,
    config: KNNConfig,
    model: ModelIdentity | None = None,
    *,
    rows: int | None = None,
    key_fp16: bool = False,
) -> NeighbourSource:
    """Returns a datastore with its index, in one file or in shards; its temperature is not measured yet.

    The arguments and what is raised are those of ``open_neighbours``.
    """
    open_one = open_sharded if is_sharded(indexfile) else KNN_Dstore.opened
    return open_one(prefix, indexfile, config, model, rows=rows, key_fp16=key_fp16)


def _warn_of_no_effect(config: KNNConfig, in_shards: list[bool]) -> None:
    """Warns of settings that were given and change nothing."""
    idle = {}
    if config.knn_backend != "ray":
        idle = dict.fromkeys(("ray_address", "knn_timeout"), "without --knn-backend ray: shards are searched here")
    if not any(in_shards):
        idle["knn_in_flight"] = "on an index that is not in shards"
    elif all(in_shards):
        idle["map_index"] = "on an index in shards, which stay in their files unless --move-dstore-to-mem reads them"
    for name, why in idle.items():
        if getattr(config, name) != getattr(KNNConfig, name):
            logger.warning("%s has no effect %s", flag_name(name), why)


class KNN:
    r"""A datastore, its index and its weight, to be opened for a model: ``from_pretrained(…, knn=KNN(…))``.

        KNN("checkpoints/dstore", "checkpoints/knn.index", k=1024, lmbda=0.25, temperature=10)

    Args:
        prefix: of the datastore's files; several in one string, separated by colons, are searched together (a colon in
            a name is written ``\:``).
        indexfile: of its index; of several one each, in their order.
        k: neighbours that vote.
        lmbda: their weight λ: p = (1 − λ) p_LM + λ p_kNN.
        data: of the text that the datastore was written from, its directory or its split, where that was moved; what
            the manifest says if left out.
        rows: of a datastore without a manifest.
        key_fp16: whether the keys of one are float16.
        settings: ``temperature`` or ``knn_temp`` (T, ``"auto"`` if left out: from the distances between rows; of inner
            products 1), ``probe``, and others.

    Raises:
        ConfigError: no such setting, or one out of range.
    """

    def __init__(
        self,
        prefix: str | Path,
        indexfile: str | Path = "",
        k: int = 1024,
        lmbda: float = 0.25,
        *,
        data: str | Path | None = None,
        rows: int | None = None,
        key_fp16: bool = False,
        **settings: "Unpack[NeighbourSettings]",
    ) -> None:
        self.data, self.rows, self.key_fp16 = data, rows, key_fp16
        if indexfile == "":
            raise ConfigError(
                f"indexfile is required, the index that fairseq-build-dstore made of {prefix}; give KNN(prefix,"
                " indexfile)"
            )
        names = [join_paths([name]) if isinstance(name, Path) else name for name in (prefix, indexfile)]
        for what, name in zip(("prefix", "indexfile"), names, strict=True):
            if not isinstance(name, str):
                raise ConfigError(f"{what} must be a path, but is {shown(name)}; give KNN(prefix, indexfile, k, lmbda)")
        named = KNNConfig(dstore_filename=names[0], indexfile=names[1])
        config = with_settings(named, {"k": k, "lmbda": lmbda, **settings}, "KNN")
        is_auto = not {"knn_temp", "temperature"} & set(settings) and not config.is_inner_product
        self.config = replace(config, knn_temp=AUTO) if is_auto else config

    @property
    def key_type(self) -> str | None:
        """Which vectors the datastores' keys are; None where no manifest says so."""
        return stored_key_type(prefix for prefix, _ in self.config.stores)

    @property
    def bos_in_front(self) -> bool:
        """Whether BOS stood in front of each row where the datastores were written, as a manifest says."""
        return stored_bos(prefix for prefix, _ in self.config.stores)

    def open_for(self, model: ModelIdentity) -> tuple[NeighbourSource, float]:
        """Returns the datastores and their weight λ; raises MismatchError where one is another model's."""
        with in_keywords(KNNConfig, **KEYWORDS):
            opened = open_neighbours(self.config, model, rows=self.rows, key_fp16=self.key_fp16)
        if self.data is not None:
            opened.texts = [RowText.open(part.datastore, self.data) for part in opened.parts]
        return opened, self.config.lmbda

    def __repr__(self) -> str:
        default = KNNConfig()
        rest = {name: getattr(self.config, name) for name in NeighbourSettings.__annotations__ if name != "temperature"}
        settings = {"k": self.config.k, "lmbda": self.config.lmbda}
        settings |= {name: value for name, value in rest.items() if value != getattr(default, name)}
        words = [repr(self.config.dstore_filename), repr(self.config.indexfile)]
        return f"KNN({', '.join([*words, *(f'{name}={value!r}' for name, value in settings.items())])})"
