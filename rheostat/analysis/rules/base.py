"""What the rules of advice see of a study, and what they say. Values are minimised in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from rheostat.space import Space
from rheostat.types import Status, TrialRecord

SIGNIFICANCE = 0.05
FEW_TRIALS = 10
BAD = (Status.INFEASIBLE, Status.FAILED)


@dataclass(frozen=True)
class Advice:
    """One thing to try or to know.

    `suggestion` holds what to change: a part of the space, {"lr": {"low": 1e-5, "high": 1.0}} or
    {"optimizer": {"values": ["adamw"]}}, a value to fix it to, {"momentum": 0.9}, or {"epochs": 40}.
    """

    kind: str
    text: str
    hyperparameter: str | None = None
    suggestion: Mapping[str, Any] | None = None


class Forecast(Protocol):
    """What `epochs` more would gain, in units of the metric (schedule/outlook.py makes one)."""

    @property
    def epochs(self) -> int: ...

    @property
    def expected(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    def chance(self, gain: float) -> float:
        """The probability to gain more than this."""
        ...


@dataclass(frozen=True)
class Evidence:
    """A study as the rules see it.

    `sign` is 1 where the user minimises the metric and -1 where the user maximises it; the trials' values are
    minimised in either case. `validation_size` is the number of validation examples, where it is known.
    """

    space: Space
    trials: Sequence[TrialRecord]
    max_epochs: int | None
    metric: str
    sign: int = 1
    validation_size: int | None = None
    forecast: Forecast | None = None

    @cached_property
    def best(self) -> list[TrialRecord]:
        """The trials that gave a value, from the best on."""
        given = (t for t in self.trials if t.status not in BAD and t.best < math.inf)
        return sorted(given, key=lambda t: (t.best, t.number))

    @cached_property
    def top(self) -> list[TrialRecord]:
        """The best tenth, and at least three."""
        return self.best[: max(3, math.ceil(len(self.best) / 10))]

    @cached_property
    def full(self) -> list[TrialRecord]:
        """Those of the top that trained to their end."""
        return [t for t in self.top if t.status is Status.DONE or t.epochs >= (self.max_epochs or math.inf)]

    @cached_property
    def usable(self) -> list[TrialRecord]:
        """The trials that say how good their configuration is, diverged ones among them, failed ones not."""
        return [t for t in self.trials if t.status is Status.INFEASIBLE or (t.epochs and t.status is not Status.FAILED)]

    @property
    def is_rate(self) -> bool:
        """Whether the metric's name says that it is a share of errors, or of what is right."""
        return ("err" if self.sign > 0 else "acc") in self.metric.lower()
