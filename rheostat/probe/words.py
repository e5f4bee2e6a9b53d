"""How the probes put numbers into words, and their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Rows:
    """A table to be printed: cells are texts, and those under titles in `right` stand to the right."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()


def figure(value: float, digits: int = 2) -> str:
    """A number in a sentence, to a few significant digits.

    >>> [figure(v) for v in (0.0123, 1e-05, 12345.6, 0.5)]
    ['0.012', '1e-05', '12,346', '0.5']
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{max(digits, 3 if abs(value) >= 100 else 0)}g}"


def size(bytes_: float) -> str:
    """
    >>> [size(b) for b in (0, 1000, 214_000_000, 2_000_000_000)]
    ['0 B', '1 kB', '214 MB', '2 GB']
    """
    unit = 0
    while bytes_ >= 999.5 and unit < len(UNITS) - 1:
        bytes_, unit = bytes_ / 1000, unit + 1
    return f"{bytes_:.3g} {UNITS[unit]}"


def percent(share: float) -> str:
    """
    >>> [percent(s) for s in (0.0, 0.004, 0.123)]
    ['0%', '0.4%', '12%']
    """
    return f"{share:.0%}" if share == 0 or share >= 0.0095 else f"{share:.1%}"


def listed(parts: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def plain(value: Any) -> Any:
    """Values as JSON knows them: None for a number that is not finite.

    >>> plain({"loss": (1.0, float("inf"))})
    {'loss': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
