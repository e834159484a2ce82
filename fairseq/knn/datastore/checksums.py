"""SHA-256 of a datastore's files, one for every ``CHUNK_ROWS`` rows; the last chunk may be shorter.

Each chunk has its own, so that a check can name the damaged rows, and a writer that was stopped reads only its last
chunk again.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

CHUNK_ROWS = 1 << 16
READ_BYTES = 1 << 24


class ChunkHasher:
    """Hashes rows as they are written.

    Args:
        row_bytes: bytes of a row.

    Attributes:
        full: checksums of the chunks that are full, in order.
    """

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self.full: list[str] = []
        self._running = hashlib.sha256()
        self._rows = 0

    @classmethod
    def resume(cls, path: Path, row_bytes: int, rows: int, full: list[str]) -> "ChunkHasher":
        """Returns the hasher of a file's first ``rows`` rows; ``full`` are the checksums that are known already."""
        hasher = cls(row_bytes)
        hasher.full = full[: rows // CHUNK_ROWS]
        with path.open("rb") as file:
            file.seek(len(hasher.full) * CHUNK_ROWS * row_bytes)
            left = (rows - len(hasher.full) * CHUNK_ROWS) * row_bytes
            step = max(READ_BYTES // row_bytes, 1) * row_bytes
            while left:
                data = file.read(min(step, left))
                assert data, f"{path} is shorter than {rows} rows"
                hasher.update(memoryview(data))
                left -= len(data)
        return hasher

    def update(self, data: memoryview) -> None:
        """Adds whole rows."""
        data = data.cast("B")
        rows, rest = divmod(len(data), self.row_bytes)
        assert not rest, (len(data), self.row_bytes)
        start = 0
        while start < rows:
            stop = min(rows, start + CHUNK_ROWS - self._rows)
            self._running.update(data[start * self.row_bytes : stop * self.row_bytes])
            self._rows += stop - start
            start = stop
            if self._rows == CHUNK_ROWS:
                self.full.append(self._running.hexdigest())
                self._running, self._rows = hashlib.sha256(), 0

    def digests(self) -> list[str]:
        """Returns the checksums of everything so far, a last chunk that is not full included."""
        return [*self.full, self._running.hexdigest()] if self._rows else list(self.full)


def chunk_digests(path: Path, row_bytes: int, rows: int) -> Iterator[str]:
    """Yields the checksum of each chunk of a file."""
    for start in range(0, rows, CHUNK_ROWS):
        digest, left = hashlib.sha256(), (min(rows, start + CHUNK_ROWS) - start) * row_bytes
        with path.open("rb") as file:
            file.seek(start * row_bytes)
            while left and (data := file.read(min(READ_BYTES, left))):
                digest.update(data)
                left -= len(data)
        yield digest.hexdigest()
