"""The option that bounds what logs fill on the disk, and how sizes and ages are written."""

from __future__ import annotations

import re

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.option import Option

#: smaller limits would have pieces of a few lines
LOG_MAX_BYTES_MIN = 64_000

OPTIONS: tuple[Option, ...] = (
    Option(
        "log-max-size",
        "What one stream of one worker may fill on the disk, such as 2GB; its beginning and its end are kept. "
        "Default: no limit.",
        "SIZE",
        ours=True,
        group="only in rally",
    ),
)

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*")
_AGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*")
_AGES_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def size(text: str, name: str) -> int:
    """Bytes that a text such as 500MB, 2GB, 2GiB or 65536 gives.

    Raises:
        ConfigurationError: it is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None or (found[3] and not found[2]):
        raise ConfigurationError(f"{name} is {text!r}; give a size such as 500MB, 2GB or 2GiB")
    power = " kmgt".index(found[2].lower() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def age_s(text: str, name: str) -> float:
    """Seconds that a text such as 90s, 10m, 2h or 30d gives.

    Raises:
        ConfigurationError: it is no such text.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise ConfigurationError(
            f"{name} is {text!r}; give a number with s, m, h, d or w, such as 10m or 30d"
        )
    return float(found[1]) * _AGES_S[found[2]]


def log_max_bytes(text: str | None, name: str) -> int | None:
    """What `--log-max-size` says, or None for no limit.

    Raises:
        ConfigurationError: it is no size, or too small.
    """
    if not text:
        return None
    value = size(text, name)
    if value < LOG_MAX_BYTES_MIN:
        raise ConfigurationError(f"{name} is {text!r}; give at least {LOG_MAX_BYTES_MIN // 1000}kB")
    return value
