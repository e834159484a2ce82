"""JSON records: what a file says becomes a typed object, or is refused in one line.

    class Manifest(Record):
        kind: Literal["index"] = "index"        # a file of another kind or version is refused by name
        version: Literal[1] = 1
        rows: Annotated[int, Meta(ge=0)]        # required
        trained_on: str | UnsetType = UNSET     # may be missing, and is left out when the record is written

``json`` parses, msgspec checks: our files may hold ``Infinity`` (a loss), which msgspec's own parser refuses, and an
error shows what was found. A type that JSON does not have is written and read by its ``to_json`` and ``from_json``.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec

from fairseq.config.flags import LARGEST_INT
from fairseq.errors import FairseqError, shown
from fairseq.storage.files import write_json

R = TypeVar("R", bound="Record")
T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INT)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_INT)]

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of what a file says. A field that is UNSET is left out of the file."""

    def replace(self: R, **changes: Any) -> R:
        """Returns the record with other values of some fields."""
        return msgspec.structs.replace(self, **changes)


def as_json(value: Any) -> Any:
    """Returns a record, or whatever holds records, as JSON has it: dicts, lists, texts and numbers."""
    return msgspec.to_builtins(value, enc_hook=_encoded)


def _encoded(item: Any) -> Any:
    for kind in (str, float):  # torch's version is a str as well, NumPy's float64 a float
        if isinstance(item, kind):
            return kind(item)
    return item.to_json()


def write_record(path: Path, record: Record) -> None:
    """Writes a record as indented JSON, atomically."""
    write_json(path, as_json(record))


def read_record(path: Path, cls: type[R], error: type[FairseqError], remedy: str) -> R:
    """Returns the record in a file.

    Args:
        path: of the file.
        cls: what it must be.
        error: what to raise.
        remedy: the end of the message: what the user can do.

    Raises:
        error: it is no JSON, of another kind or version, or a field is unknown, missing or not sound.
    """
    return parse(path.read_bytes(), cls, str(path), error, remedy)


def parse(text: str | bytes, cls: type[T], what: str, error: type[FairseqError], remedy: str) -> T:
    """Returns JSON as a type, as ``read_record`` does; ``what`` it is begins the messages."""
    try:
        return _parsed(text, cls, what, error, remedy)
    except RecursionError as err:  # from the parser, from msgspec, or from showing what was found
        raise error(f"{what} must be JSON, but is not (it is nested too deeply); {remedy}") from err


def _parsed(text: str | bytes, cls: type[T], what: str, error: type[FairseqError], remedy: str) -> T:
    try:
        found = json.loads(text if isinstance(text, str) else text.decode())
    except ValueError as err:
        reason = " ".join(str(err).split())[:120]
        raise error(f"{what} must be JSON, but is not ({reason}); {remedy}") from err
    if _is_struct(cls):
        _check_kind(found, cls, what, error)
    try:
        return msgspec.convert(found, cls, dec_hook=lambda kind, value: kind.from_json(value))
    except msgspec.ValidationError as err:
        raise error(f"{what}{_reason(str(err), found, cls)}; {remedy}") from err


def _is_struct(kind: Any) -> bool:
    return hasattr(kind, "__struct_fields__")  # not issubclass, which fails for dict[str, Any]


def _check_kind(found: Any, cls: Any, what: str, error: type[FairseqError]) -> None:
    own = {field.name: field.default for field in msgspec.structs.fields(cls)}
    is_object = isinstance(found, dict)
    if "kind" in own and (not is_object or found.get("kind") != own["kind"]):
        other = f"of kind {shown(found['kind'])}" if is_object and "kind" in found else "of none"
        raise error(f"{what} must be of kind {own['kind']!r}, but is {other}; check the path")
    if "version" in own and found.get("version") != own["version"]:
        version = shown(found.get("version"))
        raise error(f"{what} is of version {version}, but this program reads version {own['version']}; update it")


def _reason(message: str, found: Any, cls: type) -> str:
    """Returns what msgspec refuses, in words that go behind the name of the file."""
    message, _, path = (
        message.rpartition(" - at `$") if message.endswith("`") and " - at `$" in message else (message, "", "")
    )
    path = path.removesuffix("`").lstrip(".")
    at = f": {path!r}" if path else ""
    if path.endswith("[...]"):
        at = f": a value of {path.removesuffix('[...]')!r}"
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", message, re.DOTALL):
        return f"{at} has the unknown field {shown(unknown[1])}"
    if missing := re.fullmatch("Object missing required field `(.*)`", message):
        return f"{at} lacks the field {missing[1]!r}"
    expected = _expected(message, path, cls)
    return f"{at} {message if expected is None else f'must {expected}{_but(path, found)}'}"


def _expected(message: str, path: str, cls: type) -> str | None:
    """Returns what a value must be; None where our own check of a record has said so, and what it is."""
    if message.startswith("Invalid "):
        return f"be {' or '.join(_choices(path, cls))}"
    if length := re.fullmatch(r"Expected `\w+` of length (?:([<>]=?) )?(\d+).*", message):
        return f"have {_BOUNDS.get(length[1], 'exactly')} {length[2]} entries"
    if bound := re.fullmatch(r"Expected `\w+` ([<>]=?) (.*)", message):
        return f"be {_BOUNDS[bound[1]]} {bound[2].removesuffix('.0')}"
    if pattern := re.fullmatch("Expected `str` matching regex (.*)", message):
        return f"match {pattern[1]}"
    if kinds := re.match("Expected `(.*?)`", message):
        return f"be {' or '.join(_WORDS.get(kind, kind) for kind in kinds[1].split(' | '))}"
    return "be a finite number" if message.endswith("out of range") else None


def _choices(path: str, cls: type) -> list[str]:
    """Returns the values that a field may have, or the kinds of object, as its type names them."""
    kind: Any = cls
    for name in re.findall(r"[A-Za-z_]\w*", path):
        structs = _structs(kind)
        owner = next((struct for struct in structs if name in struct.__struct_fields__), None)
        if owner is None:  # what tells several kinds of object apart is no field of theirs
            return [str(struct.__struct_config__.tag) for struct in structs]
        kind = get_type_hints(owner)[name]
    return [str(value) for value in get_args(kind)]


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    """Returns the structs that a type names, itself or inside."""
    if _is_struct(kind):
        return [kind]
    return [struct for inner in get_args(kind) for struct in _structs(inner)]


def _but(path: str, found: Any) -> str:
    """Returns ``, but is X`` with what stands at a path such as ``segments[0].rows``; nothing below an unnamed key."""
    if "[...]" in path:
        return ""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        found = found[name] if name else found[int(index)]
    return f", but is {shown(found)}"
