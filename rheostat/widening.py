"""Ranges that turn out too narrow are widened while a study runs, and no trial is lost.

When 10, 14, 20, 28 ... trials have given a result, the study looks whether the best ones sit at the edge of a range, or
most trials diverge in a part of one (docs/advice.md), and goes on in the space that the advice suggests. Results count
once they are settled in logical time (docs/adr/0002-logical-time.md), so a study is widened at the same points with
any number of workers, and after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.analysis.rules.failures import infeasible
from rheostat.analysis.rules.ranges import range_edges
from rheostat.changes import changes
from rheostat.schedule.base import Scheduler
from rheostat.space import Float, Hyperparameter, Int, Space
from rheostat.types import History, Notice, Status, TrialRecord

FIRST, GROWTH = 10, 1.4  # trials with a result, at which it is looked


@dataclass(frozen=True)
class Step:
    """The space in which a study goes on when so many trials have given a result."""

    results: int
    space: Space

    def describe(self) -> dict[str, Any]:
        return {"results": self.results, "space": self.space.describe()}


@dataclass
class Widening:
    """What a study needs to know to widen its space.

    `steps` begin with the space that was given, at no results. `make` makes a scheduler for a space. With `anew` it is
    looked at once, since the study was not to be widened before.
    """

    steps: list[Step]
    make: Callable[[Space], Scheduler]
    metric: str
    sign: int
    anew: bool = False

    def __post_init__(self) -> None:
        self._counted = 0  # results when it was looked last

    def take_up(self, history: History) -> Scheduler:
        """The scheduler of the space as it was when this was the history."""
        now = _results(history)
        self._counted = 0 if self.anew else now
        return self.make(self._space(now))

    def look(self, history: History) -> Scheduler | None:
        """The scheduler of another space, where this history asks for one; its step is added where it is a new one."""
        before, now = self._counted, _results(history)
        self._counted = now
        if not _due(before, now):
            return None
        if all(step.results != now for step in self.steps[1:]):  # else what was found before a crash
            space = widened(self._space(now), history.trials, self.metric, self.sign)
            if space is None:
                return None
            self.steps.append(Step(now, space))
        return self.make(self._space(now))

    def notice(self) -> Notice:
        """The last step in words."""
        before, after = self.steps[-2:]
        words = "; ".join(changes(before.space, after.space)[0])
        return Notice("widened", f"after {after.results} results the space changes, and all trials are kept: {words}")

    def _space(self, results: int) -> Space:
        return [step.space for step in self.steps if step.results <= results][-1]


def widened(space: Space, trials: Sequence[TrialRecord], metric: str, sign: int) -> Space | None:
    """The space with the ranges that its trials advise; None where it may stay as it is.

    Trials that break a limit are not asked: they do not show what is good.
    """
    seen = Evidence(space, [trial for trial in trials if trial.keeps_limits], None, metric, sign)
    parts: dict[str, Hyperparameter] = {}
    for advice in [*infeasible(seen), *range_edges(seen)]:
        name = advice.hyperparameter
        if name is not None and isinstance(part := space.tuned.get(name), Float | Int):
            parts[name] = _merged(part, parts.get(name, part), advice)
    return Space({**space.tuned, **parts, **space.fixed}) if parts else None


def _merged(old: Float | Int, new: Hyperparameter, advice: Advice) -> Float | Int:
    """The range with the ends that the advice moves; where both ends are to be moved, there is one for each."""
    assert isinstance(new, Float | Int) and advice.suggestion is not None and advice.hyperparameter is not None
    range_: Mapping[str, Any] = advice.suggestion[advice.hyperparameter]
    low = new.low if range_["low"] == old.low else range_["low"]
    high = new.high if range_["high"] == old.high else range_["high"]
    prior = new.prior if new.prior is not None and low <= new.prior.value <= high else None
    return replace(new, low=low, high=high, prior=prior)


def steps_of(settings: Mapping[str, Any], space: Space) -> list[Step]:
    """The steps that are kept with a study; with one that was never widened, its space."""
    kept = [Step(step["results"], Space.from_description(step["space"])) for step in settings.get("widened", ())]
    return kept or [Step(0, space)]


def _results(history: History) -> int:
    """How many trials have given a result; it never falls."""
    return sum(trial.epochs > 0 or trial.status is Status.INFEASIBLE for trial in history.trials)


def _due(before: int, now: int) -> bool:
    """Whether a point to look at lies behind the one and not behind the other.

    >>> [n for n in range(1, 60) if _due(n - 1, n)]
    [10, 14, 20, 28, 39, 54]
    """
    point = float(FIRST)
    while point <= before:
        point *= GROWTH
    return point <= now
