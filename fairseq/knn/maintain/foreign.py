"""The datastores of other tools: whose names say what the files do not.

    PREFIX_{keys,vals}.npy                             the original; N and D nowhere
    PREFIX_size{N}_embed{D}_fp16_{keys,vals}.npy       float16 keys, int64 values
    dstore_{model}_{N}_{D}_{keys,vals}.npy             float16 keys, int32 values

All are raw files without a header. With N and D, the sizes leave one layout; without, the values decide. Published
datastores of the last kind come without keys: their index's own distances are what is searched by.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.config import DEFAULT_KEY_DIMENSION
from fairseq.knn.datastore.format import (
    VALUE_BYTES,
    KeyDtype,
    Layout,
    holds_ids,
    keys_path,
    possible_layouts,
    refuse_layouts,
    values_path,
)

_SUFFIX = re.compile(r"_(keys|vals)\.npy$")
_NAMES = (
    re.compile(r"_size(?P<rows>\d{1,18})_embed(?P<dimension>\d{1,9})(?:_(?P<dtype>fp16|fp32))?$"),
    re.compile(r"_(?P<rows>\d{1,18})_(?P<dimension>\d{1,9})(?P<dtype>)$"),
)
_RUN_CLM = re.compile(r"^dstore_.+_\d{1,18}_\d{1,9}$")
_DTYPES: dict[str, KeyDtype] = {"fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class Foreign:
    """The two files of a datastore, or its values alone, and what their name says."""

    prefix: Path
    rows: int | None = None
    dimension: int | None = None
    key_dtype: KeyDtype | None = None

    @property
    def is_run_clms(self) -> bool:
        """Whether the name is one that knn-transformers gives, whose values are the model's own ids."""
        return bool(_RUN_CLM.search(self.prefix.name))

    @property
    def has_keys(self) -> bool:
        """Whether the keys are there."""
        return keys_path(self.prefix).is_file()


def find_foreign(source: str) -> Foreign:
    """Returns the datastore that a prefix, or one of its files, names; the prefix may lack what a name says of N and D.

    Raises:
        DatastoreError: there is none, or there are several.
    """
    prefix = Path(_SUFFIX.sub("", source))
    if not keys_path(prefix).is_file() and not (values_path(prefix).is_file() and _NAMES[1].search(prefix.name)):
        longer = [
            Path(_SUFFIX.sub("", str(path)))
            for path in sorted(prefix.parent.glob("*_keys.npy"))
            if path.name.startswith(f"{prefix.name}_")
        ]
        longer = [path for path in longer if any(pattern.search(path.name) for pattern in _NAMES)]
        if len(longer) != 1:
            found = f"several begin so: {', '.join(path.name for path in longer)}" if longer else "there is none"
            raise DatastoreError(f"{source} must name one datastore (PREFIX_keys.npy, PREFIX_vals.npy), but {found}")
        prefix = longer[0]
    if not values_path(prefix).is_file():
        raise DatastoreError(f"{values_path(prefix)} does not exist, but the keys do; a datastore needs both")
    for pattern in _NAMES:
        if match := pattern.search(prefix.name):
            return Foreign(prefix, int(match["rows"]), int(match["dimension"]), _DTYPES.get(match["dtype"]))
    return Foreign(prefix)


def foreign_layout(foreign: Foreign, rows: int | None, dimension: int | None, key_fp16: bool) -> Layout:
    """Returns the one layout that the files can have.

    Args:
        foreign: the files, and what their name says.
        rows: ``--dstore-size``, which wins over the name.
        dimension: ``--dimension``, likewise.
        key_fp16: ``--dstore-fp16``.

    Raises:
        DatastoreError: none fits, or several do.
    """
    stated = replace(
        foreign,
        rows=rows or foreign.rows,
        dimension=dimension or foreign.dimension,
        key_dtype="float16" if key_fp16 else foreign.key_dtype,
    )
    if not stated.has_keys:
        return _layout_of_values(stated)
    fitting = likely_layouts(stated)
    if len(fitting) > 1 and stated.dimension is None:
        fitting = [layout for layout in fitting if layout.dimension == DEFAULT_KEY_DIMENSION] or fitting
    keys, values = keys_path(foreign.prefix), values_path(foreign.prefix)
    sizes = f"{keys} has {keys.stat().st_size} bytes and {values.name} {values.stat().st_size}"
    if not fitting:
        words = {"rows": stated.rows, "width": stated.dimension, "keys": stated.key_dtype}
        said = ", ".join(f"{name} {value}" for name, value in words.items() if value) or "any width"
        raise DatastoreError(f"{sizes}, which fits no layout with {said}; check the size and --dimension")
    if len(fitting) > 1:
        refuse_layouts(sizes, fitting)
    return fitting[0]


def _layout_of_values(stated: Foreign) -> Layout:
    """Returns the layout of values without keys, which their name alone says the width of."""
    assert stated.rows is not None and stated.dimension is not None
    path = values_path(stated.prefix)
    dtype = VALUE_BYTES.get(path.stat().st_size // stated.rows)
    if dtype is None or path.stat().st_size % stated.rows:
        raise DatastoreError(
            f"{path} has {path.stat().st_size} bytes, which are not {stated.rows} values; check the size"
        )
    return Layout(stated.rows, stated.dimension, stated.key_dtype or "float16", dtype)


def likely_layouts(stated: Foreign) -> list[Layout]:
    """Returns the layouts that agree with the sizes of the files, with what is stated, and with the values."""
    fitting = [
        layout
        for layout in possible_layouts(stated.prefix)
        if stated.rows in (None, layout.rows)
        and stated.dimension in (None, layout.dimension)
        and stated.key_dtype in (None, layout.key_dtype)
    ]
    return [layout for layout in fitting if len(fitting) == 1 or holds_ids(stated.prefix, layout)] or fitting
