"""The datastores of other tools: whose names say what the files do not.

    PREFIX_{keys,vals}.npy                             the original; N and D nowhere
    PREFIX_size{N}_embed{D}_fp16_{keys,vals}.npy       float16 keys, int64 values
    dstore_{model}_{N}_{D}_{keys,vals}.npy             float16 keys, int32 values

All are raw files without a header. With N and D, the sizes leave one layout; without, the values decide.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.config import DEFAULT_KEY_DIMENSION
from fairseq.knn.datastore.format import Layout, keys_path, possible_layouts, values_path

_SUFFIX = re.compile(r"_(keys|vals)\.npy$")
_NAMES = (
    re.compile(r"_size(?P<rows>\d{1,18})_embed(?P<dimension>\d{1,9})(?P<dtype>_fp16|_fp32)?$"),
    re.compile(r"_(?P<rows>\d{1,18})_(?P<dimension>\d{1,9})$"),
)
_SAMPLE = 4096


@dataclass(frozen=True)
class Foreign:
    """The two files of a datastore, and what their name says."""

    prefix: Path
    rows: int | None = None
    dimension: int | None = None
    key_dtype: str | None = None

    @property
    def keys(self) -> Path:
        """The file of the keys."""
        return keys_path(self.prefix)

    @property
    def values(self) -> Path:
        """The file of the values."""
        return values_path(self.prefix)


def find_foreign(source: str) -> Foreign:
    """Returns the datastore that a prefix, or one of its files, names; the prefix may lack what a name says of N and D.

    Raises:
        DatastoreError: there is none, or there are several.
    """
    prefix = Path(_SUFFIX.sub("", source))
    if not keys_path(prefix).is_file():
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
        match = pattern.search(prefix.name)
        if match:
            said = match.groupdict().get("dtype")
            dtype = {"_fp16": "float16", "_fp32": "float32"}.get(said or "")
            return Foreign(prefix, int(match["rows"]), int(match["dimension"]), dtype)
    return Foreign(prefix)


def foreign_layout(found: Foreign, rows: int | None, dimension: int | None, key_fp16: bool) -> Layout:
    """Returns the one layout that the files can have.

    Args:
        found: the files, and what their name says.
        rows: ``--dstore-size``, which wins over the name.
        dimension: ``--dimension``, likewise.
        key_fp16: ``--dstore-fp16``.

    Raises:
        DatastoreError: none fits, or several do.
    """
    stated = replace(
        found,
        rows=rows or found.rows,
        dimension=dimension or found.dimension,
        key_dtype="float16" if key_fp16 else found.key_dtype,
    )
    sizes = found.keys.stat().st_size, found.values.stat().st_size
    fitting = likely_layouts(stated)
    if len(fitting) > 1 and stated.dimension is None:
        fitting = [layout for layout in fitting if layout.dimension == DEFAULT_KEY_DIMENSION] or fitting
    if len(fitting) == 1:
        return fitting[0]
    files = f"{found.keys} has {sizes[0]} bytes and {found.values.name} {sizes[1]}"
    said = ", ".join(
        f"{name} {value}"
        for name, value in (("rows", stated.rows), ("width", stated.dimension), ("keys", stated.key_dtype))
        if value
    )
    if not fitting:
        raise DatastoreError(
            f"{files}, which fits no layout with {said or 'any width'}; check the size and --dimension"
        )
    ways = "; ".join(describe_layout(layout) for layout in fitting)
    raise DatastoreError(f"{files}, which fits several layouts: {ways}; give --dimension, --dstore-size, --dstore-fp16")


def likely_layouts(stated: Foreign) -> list[Layout]:
    """Returns the layouts that agree with the sizes of the files, with what is stated, and with the values."""
    sizes = stated.keys.stat().st_size, stated.values.stat().st_size
    fitting = [layout for layout in possible_layouts(*sizes) if _agrees(layout, stated)]
    return [layout for layout in fitting if len(fitting) == 1 or _holds_ids(stated.values, layout)] or fitting


def describe_layout(layout: Layout) -> str:
    """Returns a layout in words."""
    return f"{layout.rows} rows of {layout.dimension}-wide {layout.key_dtype} keys and {layout.value_dtype} values"


def _agrees(layout: Layout, stated: Foreign) -> bool:
    return (
        stated.rows in (None, layout.rows)
        and stated.dimension in (None, layout.dimension)
        and stated.key_dtype in (None, layout.key_dtype)
    )


def _holds_ids(path: Path, layout: Layout) -> bool:
    """Returns whether the first values look like ids of this dtype; int16 may be negative, having overflowed.

    Wider ids, seen narrowly, are zeros every other time; narrow ones, seen widely, are huge.
    """
    first = np.fromfile(path, layout.value_dtype, min(_SAMPLE, layout.rows))
    while len(first) and first[-1] == 0:
        first = first[:-1]  # rows at the end that were never filled
    if layout.value_dtype == "int16":
        return bool(first.all())
    return bool((first >= 0).all() and (first < 2**31 - 1).all() and (layout.value_dtype == "int64" or first.all()))
