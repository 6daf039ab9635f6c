"""Names of labels, clients and tasks, read from values of files and settings."""

import math
import re
from decimal import Decimal

__all__ = ["LONGEST_NAME", "ClientId", "encodable", "name_of"]

ClientId = str

LONGEST_NAME = 1000
"""Characters of a label, client or task."""

_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def name_of(value: object, typed: bool) -> str | None:
    """A label or client as text, or None for a value that cannot be a name.

    1, 1.0 and, in CSV, "1.0" become "1". True and, in CSV, "True", "TRUE" and "true" become "true".

    Args:
        value: read from a file or a setting.
        typed: whether the format tells text from numbers, as JSON does and CSV does not.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 3 * LONGEST_NAME else None
    if not isinstance(value, str) or not value.strip() or not encodable(value) or len(value) > LONGEST_NAME:
        return None
    if typed:
        return value
    whole = _WHOLE.fullmatch(value)
    return whole[1] if whole else value.lower() if value.lower() in ("true", "false") else value


def encodable(value: str) -> bool:
    """Whether a text can be encoded as UTF-8: JSON can hold lone surrogates (halves of characters), UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
