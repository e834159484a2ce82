"""From bytes to text: UTF-8, with or without a byte-order mark at its start.

Every text and every dictionary is read by this. The mark is no part of the first word: it is left out, and that is
said. A mark of another encoding is an error that names it. UTF-16 without a mark would be read as UTF-8, a zero byte
after each letter: it is known by these zeros.
"""

import codecs
import logging
from collections.abc import Callable

from fairseq.errors import DataError
from fairseq.storage.file_kinds import kind_at

logger = logging.getLogger(__name__)

MARK = "\ufeff"
# The longer ones first: UTF-32 begins with the two bytes of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_HEAD_BYTES = 64


def decoded(data: bytes, name: str, line: int | Callable[[int], int], *, start: int = 0, what: str = "text") -> str:
    """Returns bytes as text, without the byte-order mark that a file may begin with.

    Args:
        data: a part of a file.
        name: of the file, for messages.
        line: the line's number, from 1; of several, what returns that of a byte of the file.
        start: where in the file the part begins.
        what: the file is, for messages.

    Raises:
        DataError: it is not UTF-8.
    """
    head = b"" if start else data[:_HEAD_BYTES]
    whole = len(head) % 2 == 0 or head.endswith(b"\n")  # of the last letter, a line's reader has cut off the zero
    if len(head) > 2 and whole and not (any(head[::2]) and any(head[1::2])):
        kind = "UTF-16BE" if any(head[1::2]) else "UTF-16LE"
        raise DataError(
            f"{name}:1: the {what} must be UTF-8, but every second byte is zero, as in UTF-16; convert the file, for"
            f" example with iconv -f {kind} -t UTF-8"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        other = None if start else next((kind for mark, kind in _OTHER_MARKS.items() if data.startswith(mark)), None)
        if other:
            raise DataError(
                f"{name}:1: the {what} must be UTF-8, but begins with the byte-order mark of {other}; convert the file,"
                f" for example with iconv -f {other} -t UTF-8"
            ) from err
        position = start + err.start
        number = line(position) if callable(line) else line
        kind = kind_at(name)  # by its first bytes, which may be sound
        is_other = kind not in ("", "a text", "a dictionary")
        advice = f"; the file is {kind}" if is_other else "; convert the file, for example with iconv -t UTF-8"
        raise DataError(
            f"{name}:{number}: the {what} must be UTF-8, but holds byte 0x{data[err.start]:02x} (at {position}){advice}"
        ) from err
    return text.removeprefix(MARK) if start == 0 else text


def warn_of_mark(data: bytes | str, name: str) -> None:
    """Warns where a text begins with the mark that ``decoded`` leaves out."""
    if data.startswith(codecs.BOM_UTF8) if isinstance(data, bytes) else data.startswith(MARK):
        logger.warning("%s begins with a byte-order mark; it is left out, being no part of the first word", name)
