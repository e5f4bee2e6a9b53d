"""What may change when a study is continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rheostat.space import Space


def changes(old: Space, new: Space) -> tuple[list[str], list[str]]:
    """What differs between two spaces, in words: the changes that keep every old trial, and those that do not.

    A range may be widened or narrowed, a scale, step, prior or condition changed, and values of a `Choice` added or
    left out: trials outside the new space stay in the records. A hyperparameter that comes, goes or changes its
    kind makes old trials another experiment.
    """
    before, after = old.describe(), new.describe()
    kept: list[str] = []
    broken: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        words = f"{name}: {_words(before.get(name))} -> {_words(after.get(name))}"
        same_kind = name in before and name in after and before[name]["type"] == after[name]["type"] != "fixed"
        (kept if same_kind else broken).append(words)
    return kept, broken


def _words(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return "absent"
    if part["type"] == "fixed":
        return f"fixed to {part['value']!r}"
    if part["type"] == "choice":
        words = f"one of {part['values']}"
    else:
        words = f"{part['type']} {part['low']:g} to {part['high']:g}{' (log)' if part.get('log') else ''}"
    if "step" in part:
        words += f" by {part['step']:g}"
    if "prior" in part:
        words += f", likely {part['prior']['value']}"
    return words + (f", when {part['when']}" if "when" in part else "")
