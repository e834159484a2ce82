"""Free disk and memory; work that does not fit is refused before it begins.

Memory is what the operating system could still give to this process: what is free or reclaimable, less whatever a
control group (a container, a batch system) or a limit of the process (``ulimit -d``, ``ulimit -v``) leaves of it.
Pages of mapped files are not counted: they are given back when they are needed elsewhere.
"""

import ctypes
import os
import resource
import shutil
from pathlib import Path

from fairseq.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")
GIB, MIB = 2**30, 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt(3)


def free_disk_bytes(path: Path) -> int:
    """Returns the bytes that can be written where ``path`` is, or would be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def free_memory_bytes() -> int | None:
    """Returns the bytes of memory that this process could still take, or None where that is not known."""
    known = [value for value in (_system(), _control_group(), *_limits()) if value is not None]
    return max(min(known), 0) if known else None


def total_memory_bytes() -> int:
    """Returns the bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory() -> None:
    """Makes the process keep the memory that it frees, for its next allocations.

    glibc gives large blocks back to the system, which hands them out again page by page, each zeroed: a training that
    frees and takes the same blocks at every update spends a tenth of its time on that, an evaluation a twentieth.
    With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_MAX, 0)


def give_freed_memory_back() -> None:
    """Makes the process give the blocks that it frees back to the system, of 128 KiB and more.

    glibc keeps larger and larger ones, up to 32 MiB. Of a model that is gathered layer by layer, the gaps between them
    come to more than the model. With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 17)


def fits_memory(num_bytes: int) -> bool:
    """Returns whether so many bytes fit into the free memory; True where that is unknown."""
    free = free_memory_bytes()
    return free is None or num_bytes <= free


def share_of_memory(parts: int, most: int) -> int:
    """Returns an equal part of the free memory, in bytes, but at most ``most``; ``most`` where that is unknown."""
    free = free_memory_bytes()
    return most if free is None else min(free // parts, most)


def require_disk(path: Path, needed: int, remedy: str) -> None:
    """Raises ConfigError when ``needed`` bytes do not fit where ``path`` is."""
    free = free_disk_bytes(path)
    if needed > free:
        raise ConfigError(
            f"{path} needs {shown_bytes(needed)} of disk, but {shown_bytes(free)} are free there; {remedy}"
        )


def require_memory(what: str, needed: int, remedy: str) -> None:
    """Raises ConfigError when ``needed`` bytes do not fit into the free memory; never where that is unknown."""
    free = free_memory_bytes()
    if free is not None and needed > free:
        raise ConfigError(f"{what} needs {shown_bytes(needed)} of memory, but {shown_bytes(free)} are free; {remedy}")


def shown_bytes(count: int) -> str:
    """Returns a number of bytes as people read it: ``1.91 GiB``, ``5.30 MiB``."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / MIB:.2f} MiB"


def _system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _control_group() -> int | None:
    """Returns what is left of the control group's memory (version 2 or 1); cached pages of files count as free."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    found = []
    for _, controllers, path in lines:
        own = path.lstrip("/")
        if not controllers:
            found.append(_left(_CGROUP / own, "memory.max", "memory.current", "file"))
        elif "memory" in controllers.split(","):
            group = _CGROUP / "memory" / own
            found.append(_left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"))
    return min((value for value in found if value is not None), default=None)


def _left(group: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        values = [(group / name).read_text(encoding="ascii").strip() for name in (limit, used)]
        return None if values[0] == "max" else int(values[0]) - int(values[1]) + int(stat.get(cached, 0))
    except (OSError, ValueError):
        return None


def _limits() -> list[int | None]:
    """Returns what is left below the limits of the process, of its data and of its address space."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return []
    page = os.sysconf("SC_PAGE_SIZE")
    used = {resource.RLIMIT_AS: int(fields[0]) * page, resource.RLIMIT_DATA: int(fields[5]) * page}
    limits = {which: resource.getrlimit(which)[0] for which in used}
    return [limits[which] - used[which] for which in used if limits[which] != resource.RLIM_INFINITY]
