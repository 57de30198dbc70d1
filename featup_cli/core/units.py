"""Numbers of bytes as text. Free of torch."""

from __future__ import annotations

import re

from featup_cli.core.errors import UsageError

_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
LEAST_BYTES = 1_000_000  # nobody limits memory to fewer


def parse_bytes(text: str, option: str = "--memory") -> int:
    """`2GB`, `1500MB`, `1.5GiB` or plain bytes as a number.

    Raises:
        UsageError: the text has another form, or is zero, or has no unit and can't have been meant as bytes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(float(match[1]) * unit) == 0:
        raise UsageError(f"{option} {text}: expected a size such as 2GB, 1500MB or 2000000000")
    count = int(float(match[1]) * unit)
    if not match[2] and count < LEAST_BYTES:
        raise UsageError(f"{option} {text}: is a number of bytes; give a unit, as in {match[1]}GB")
    return count


def format_bytes(count: float) -> str:
    """A number of bytes for people: `3.4 GB`, `870 MB`."""
    for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count:.0f} bytes"
