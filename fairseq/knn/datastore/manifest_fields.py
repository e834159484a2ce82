"""A manifest's field, as JSON has it, checked."""

from typing import Any

from fairseq.config.flags import coerce
from fairseq.errors import ConfigError, DatastoreError


def checked_field(value: Any, kind: Any, what: str) -> Any:
    """Returns the value of a field of an annotated type.

    Raises:
        DatastoreError: it is of another type, or negative.
    """
    if kind == tuple[str, ...]:
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise DatastoreError(f"{what} must be a list of checksums, but is {str(value)[:80]!r}")
        return tuple(value)
    if kind == tuple[dict[str, Any], ...]:
        if not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
            raise DatastoreError(f"{what} must be a list of objects, but is {str(value)[:80]!r}")
        return tuple(value)
    if kind == dict[str, Any]:
        if not isinstance(value, dict):
            raise DatastoreError(f"{what} must be an object, but is {value!r}")
        return value
    if isinstance(value, str) and kind not in (str, str | None):
        raise DatastoreError(f"{what} must be a number, but is {value!r}")
    try:
        number = coerce(value, kind, what)
    except ConfigError as err:
        raise DatastoreError(str(err)) from err
    if isinstance(number, int) and number < 0:
        raise DatastoreError(f"{what} must not be negative, but is {number}")
    return number
