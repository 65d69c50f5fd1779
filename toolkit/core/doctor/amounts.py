"""Amounts in words, as `rally doctor` says them."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30


def size(count: int | None) -> str:
    """Bytes, such as "64 MiB", "23.5 GiB"; "unlimited" for None."""
    if count is None:
        return "unlimited"
    for unit, name in ((1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            value = count / unit
            return f"{value:.0f} {name}" if value >= 100 or value == int(value) else f"{value:.1f} {name}"
    return f"{count} bytes"


def number(count: int | None) -> str:
    """Such as "20,000"; "unlimited" for None."""
    return "unlimited" if count is None else f"{count:,}"


def seconds(value: float) -> str:
    """Such as "3 ms", "4.2 s"; what takes no time that counts is "0 ms"."""
    return f"{value * 1e3:.0f} ms" if value < 0.9995 else f"{value:.1f} s"
