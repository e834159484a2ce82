"""Writing a datastore row by row, by one process, so that a killed run loses nothing.

While writing, the manifest's ``rows_written`` is raised only after the rows are on the disk. A run that goes on cuts
both files back to that many rows and appends. Nothing that is complete, or belongs to another run, is replaced without
being asked for; and one process writes a datastore at a time. Several that write a range each have records of their
own (range_record.py).
"""

import logging
from contextlib import ExitStack
from pathlib import Path

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.forgotten import remove_others
from fairseq.knn.datastore.format import (
    append_path,
    compact_prefix,
    keys_path,
    read_pieces,
    row_files,
    values_path,
)
from fairseq.knn.datastore.identity import how_runs_differ
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest, write_manifest
from fairseq.knn.datastore.range_record import how_to_finish, read_ranges, remove_ranges, require_idle
from fairseq.knn.datastore.row_writer import RowWriter, Written
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import atomic_write, locked
from fairseq.storage.outputs import claim_datastore

logger = logging.getLogger(__name__)

MAKE_ROOM = "make room, or give --dstore-fp16, which halves the keys"


class DatastoreWriter(RowWriter):
    """Appends rows to a datastore; made by ``create``, used as a context manager."""

    def __init__(
        self, prefix: Path, manifest: DatastoreManifest, save_interval_s: float, held: ExitStack, progress: Path
    ) -> None:
        self._manifest = manifest
        # Where it is noted how far the writing has come: in the manifest, or beside that of a datastore in use.
        self._progress = progress
        done, sums = manifest.rows_written, (manifest.keys_sha256, manifest.values_sha256)
        written = Written(range(manifest.rows), done, *sums)
        super().__init__(prefix, manifest, written, save_interval_s, held, file_rows=done)

    @property
    def name(self) -> str:
        """The prefix."""
        return str(self.prefix)

    @classmethod
    def create(
        cls, prefix: Path, manifest: DatastoreManifest, *, overwrite: bool = False, save_interval_s: float = 60.0
    ) -> "DatastoreWriter":
        """Returns a writer: of a new datastore, or of an unfinished one with the same ``store_id``, which goes on.

        Raises:
            ConfigError: the disk is too small.
            DatastoreError: something else is there, and ``overwrite`` is not set.
            FairseqError: another process is writing it.
        """
        assert manifest.value_dtype != "int16", "ids may not fit"
        with ExitStack() as stack:
            stack.enter_context(locked(prefix))
            claim_datastore("", prefix, overwrite=overwrite)
            try:
                earlier = unfinished(prefix, manifest)  # with --overwrite as well: then the replacing had begun
                if earlier is not None and (records := read_ranges(prefix, manifest.store_id)):
                    raise DatastoreError(f"{prefix} is written in ranges: {how_to_finish(prefix, records)}")
            except DatastoreError:
                if not overwrite:
                    raise
                earlier = None
            start = earlier or manifest.replace(state="writing", rows_written=0)
            require_disk(keys_path(prefix), _bytes_left(start), MAKE_ROOM)
            if not start.rows_written:
                begin(prefix, start)
            clear_sidecars(prefix)
            return cls(prefix, start, save_interval_s, stack.pop_all(), manifest_path(prefix))

    @classmethod
    def extend(cls, prefix: Path, manifest: DatastoreManifest, save_interval_s: float) -> "DatastoreWriter":
        """Returns a writer of rows behind those of a complete datastore, which stays in use until ``finish``.

        Args:
            prefix: of the datastore; the caller holds its lock.
            manifest: that it will have, as far as it has come (``fairseq/knn/dump/append.py``).
            save_interval_s: seconds between two states to resume from.

        Raises:
            ConfigError: the disk is too small.
        """
        # A file with another name as well is another tool's under that one, and not ours to lengthen.
        files = keys_path(prefix), values_path(prefix)
        shared = [path for path in files if path.is_symlink() or path.stat().st_nlink > 1]
        needed = _bytes_left(manifest) + sum(path.stat().st_size for path in shared)
        require_disk(keys_path(prefix), needed, "make room; nothing was changed")
        for path in shared:
            copy_start(path, path, path.stat().st_size)
        write_manifest(append_path(prefix), manifest)
        return cls(prefix, manifest, save_interval_s, ExitStack(), append_path(prefix))

    def note(self, written: Written) -> None:
        """Notes it in the manifest."""
        manifest = self._manifest.replace(
            rows_written=written.stop, keys_sha256=written.keys_sha256, values_sha256=written.values_sha256
        )
        write_manifest(self._progress, manifest)
        self._manifest = manifest

    def finish(self) -> DatastoreManifest:
        """Marks the datastore as complete and returns its manifest.

        Raises:
            DatastoreError: rows are missing.
        """
        written = self.written()
        self._manifest = self._manifest.replace(
            state="complete", keys_sha256=written.keys_sha256, values_sha256=written.values_sha256
        ).of_files(self.prefix)
        write_manifest(manifest_path(self.prefix), self._manifest)
        if self._progress != manifest_path(self.prefix):
            self._progress.unlink(missing_ok=True)
        return self._manifest

    def __enter__(self) -> "DatastoreWriter":
        return self


def begin(prefix: Path, manifest: DatastoreManifest) -> None:
    """Makes way for a datastore of which no row is written yet.

    Raises:
        FairseqError: another process is writing a range of what is there.
    """
    require_idle(prefix)
    remove_ranges(prefix)
    write_manifest(manifest_path(prefix), manifest)
    for file, _ in row_files(prefix, manifest.layout):
        file.unlink(missing_ok=True)  # not emptied: an adopted file is another tool's under a second name


def clear_sidecars(prefix: Path) -> None:
    """Removes what lies beside a datastore that has been replaced: what is forgotten, or was half done."""
    remove_others(prefix, None)
    remove_ranges(prefix)
    new = compact_prefix(prefix)
    for path in (append_path(prefix), manifest_path(new), keys_path(new), values_path(new)):
        path.unlink(missing_ok=True)


def _bytes_left(manifest: DatastoreManifest) -> int:
    return (manifest.rows - manifest.rows_written) * manifest.layout.row_bytes


def copy_start(old: Path, new: Path, num_bytes: int) -> None:
    """Copies the first bytes of a file; the new one may have the old one's name, which is then a file of its own."""
    with atomic_write(new, replace_link=True) as file:
        for data in read_pieces(old, 0, num_bytes):
            file.write(data)
        if file.tell() < num_bytes:
            raise DatastoreError(f"{old} became shorter while it was read; try again when nothing writes it")


def unfinished(prefix: Path, manifest: DatastoreManifest) -> DatastoreManifest | None:
    """Returns the manifest of the unfinished datastore to go on with, or None for a new one.

    Raises:
        DatastoreError: something else is there, or it has fewer rows than it says.
        MismatchError: it is of another run.
    """
    earlier = read_manifest(manifest_path(prefix), DatastoreManifest)
    if earlier is None:
        for path, _ in row_files(prefix, manifest.layout):
            if path.exists():
                raise DatastoreError(f"{path} exists and has no manifest; --overwrite replaces it")
        return None
    if earlier.state == "complete":
        raise DatastoreError(
            f"{prefix} is a complete datastore of {earlier.rows} rows{how_runs_differ(earlier, manifest)}; give another"
            " --dstore-mmap, or --overwrite to replace it (fairseq-eval-lm --append adds rows to it)"
        )
    if earlier.store_id != manifest.store_id:
        raise MismatchError(
            f"{prefix} is an unfinished datastore of another run{how_runs_differ(earlier, manifest)}; give its flags to"
            " go on, another --dstore-mmap, or --overwrite to replace it"
        )
    for path, row_bytes in row_files(prefix, earlier.layout):
        if earlier.rows_written and (not path.exists() or path.stat().st_size < earlier.rows_written * row_bytes):
            raise DatastoreError(
                f"{path} is shorter than the {earlier.rows_written} rows of its manifest; --overwrite starts again"
            )
    return earlier
