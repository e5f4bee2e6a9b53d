"""What may change when a study is continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rheostat.errors import SpaceError
from rheostat.space import Hyperparameter, Space
from rheostat.types import Goals


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


def goal_changes(old: Goals, new: Goals) -> list[str]:
    """What differs between two sets of goals, in words."""
    before = {**{name: f"{direction} {name}" for name, direction in old.also}, **_limits(old)}
    after = {**{name: f"{direction} {name}" for name, direction in new.also}, **_limits(new)}
    names = sorted(before.keys() | after.keys())
    differing = [name for name in names if before.get(name) != after.get(name)]
    return [f"{before.get(name, 'nothing')} -> {after.get(name, 'nothing')}" for name in differing]


def _limits(goals: Goals) -> dict[str, str]:
    return {f"{limit.metric} {'>=' if limit.at_least else '<='}": str(limit) for limit in goals.limits}


def keeping_priors(old: Space, new: Space) -> Space:
    """The new space, with the old one's priors where it gives none: they may have been learnt from earlier studies."""
    return Space({**{name: _with_prior_of(old.tuned.get(name), part) for name, part in new.tuned.items()}, **new.fixed})


def _with_prior_of(old: Hyperparameter | None, new: Hyperparameter) -> Hyperparameter:
    if new.prior is not None or old is None or type(old) is not type(new):
        return new
    try:
        return replace(new, prior=old.prior)
    except SpaceError:  # the range lacks its value now
        return new


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
