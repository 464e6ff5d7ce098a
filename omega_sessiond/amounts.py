"""Durations, sizes and counts as people write them: 10m, 30d, 512M, 4G, none. Raises ValueError with a sentence.

Knows neither options nor forms.
"""

from __future__ import annotations

YEAR_S = 31_536_000

SECONDS = {"s": 1, "m": 60, "h": 3600}
UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

LARGEST = 2**53
"""More than there is of anything that is counted here, and no more than C and every reader of JSON can hold."""


def number_of(text: str) -> int | None:
    """A whole number in the digits 0 to 9; None for what is none, or larger than any we count with."""
    digits = text.lstrip("0") or text[-1:]
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > len(str(LARGEST)):
        return None  # int() reads other digits, too, and refuses very many
    number = int(digits)
    return number if number <= LARGEST else None


def seconds_of(text: str) -> float:
    """Seconds, or with one of the units s, m, h; up to a year."""
    return _seconds(text, SECONDS, "30, 1.5, 10m, 2h")


def age_of(text: str) -> float:
    """The same, also in days."""
    return _seconds(text, {**SECONDS, "d": 86400}, "36h, 30d")


def _seconds(text: str, units: dict[str, int], example: str) -> float:
    factor = units.get(text[-1:], 0)
    try:
        value = _float(text[:-1]) * factor if factor else _float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no duration: {example}") from None
    if not 0 < value <= YEAR_S:
        raise ValueError(f"'{text}' is not between 0 and a year")
    return value


def bytes_of(text: str) -> int | None:
    """A number of bytes, or with K, M, G or T; "none" is no limit."""
    if text.lower() == "none":
        return None
    digits = text.upper().removesuffix("B").removesuffix("I")
    factor = UNITS.get(digits[-1:], 1)
    try:
        return int(_float(digits[:-1] if digits[-1:] in UNITS else digits) * factor)
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is no size: 512M, 4G, none") from None


def count_of(text: str) -> int | None:
    """A number; "none" is no limit."""
    if text.lower() == "none":
        return None
    number = number_of(text)
    if number is None:
        raise ValueError(f"'{text}' is no count: 200, none")
    return number


def _float(text: str) -> float:
    if not text.isascii():
        raise ValueError("float() reads the digits of every script")
    return float(text)
