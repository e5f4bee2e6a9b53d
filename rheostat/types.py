"""Frozen values that cross doors. Objectives in here are always minimised."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rheostat.errors import SettingError, SpaceError, unknown

Scalar = bool | int | float | str | None

UNLIMITED = 10**9  # epochs, where their number is left to the objective
DIRECTIONS = ("minimize", "maximize")


class Config(Mapping[str, Any]):
    """One value per active hyperparameter; immutable and hashable.

    >>> config = Config(lr=0.01, layers=2)
    >>> config.lr, config["layers"]
    (0.01, 2)
    """

    __slots__ = ("_key", "_values")
    _values: dict[str, Scalar]
    _key: str | None

    def __init__(self, values: Mapping[str, Scalar] | None = None, /, **named: Scalar) -> None:
        object.__setattr__(self, "_values", {**(values or {}), **named})
        object.__setattr__(self, "_key", None)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(unknown("hyperparameter", name, self._values)) from None

    def __contains__(self, name: object) -> bool:  # Mapping's own would write the error message of a missing name
        return name in self._values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols such as copy and pickle ask for these
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(unknown("hyperparameter", name, self._values)) from None

    def __setattr__(self, name: str, value: object) -> None:
        raise SpaceError(f"A configuration is fixed: make a new one with {name}={value!r} instead.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self.key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __reduce__(self) -> tuple[type[Config], tuple[dict[str, Scalar]]]:
        return Config, (self._values,)

    def key(self) -> str:
        """A text that is equal for equal configurations, whatever the order of the names."""
        if self._key is None:
            object.__setattr__(self, "_key", json.dumps(self._values, sort_keys=True))
            assert self._key is not None
        return self._key


class Status(StrEnum):
    """Where a trial stands."""

    WAITING = "waiting"  # chosen, no epoch assigned to it yet
    TRAINING = "training"  # epochs are assigned to it and not yet trained
    PAUSED = "paused"  # trained what it was assigned; may be continued
    DONE = "done"  # trained to the last epoch of the study
    CUT = "cut"  # stopped against other trials
    CONVERGED = "converged"  # stopped because it no longer improved, or a hook asked for it
    INFEASIBLE = "infeasible"  # not finite, or out of memory
    FAILED = "failed"  # an exception
    CANCELLED = "cancelled"  # by the user

    @property
    def ended(self) -> bool:
        """Whether the trial will never train again."""
        return self not in (Status.WAITING, Status.TRAINING, Status.PAUSED)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What is known of one trial. `values` are the objective after epochs 1, 2, ..., to be minimised.

    A trial with a `parent` began as a copy of that one after `born` epochs, and its values begin with the parent's.
    Where a study has further goals, `also` holds its further objectives after each epoch, to be minimised, and `excess`
    by how much each limit is broken, at most 0 where it is kept; NaN where one was not measured.

    `arm` names what a probe does otherwise than its parent. What it reached says nothing of its configuration, as the
    parent's came before it, nor is it comparable, as it may train longer than the study: so decisions do not see it,
    and it is never the best.
    """

    number: int
    config: Config
    status: Status
    values: tuple[float, ...] = ()
    until_epoch: int = 0  # trained, or being trained, to here
    reason: str = ""  # why it ended, in a line
    parent: int | None = None
    born: int = 0
    also: tuple[tuple[float, ...], ...] = ()
    excess: tuple[tuple[float, ...], ...] = ()
    arm: str = ""

    @property
    def epochs(self) -> int:
        return len(self.values)

    @property
    def best(self) -> float:
        """The lowest value so far; infinity where there is none."""
        return min((v for v in self.values if not math.isnan(v)), default=math.inf)

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) of the lowest value; 0 where there is none."""
        return self.values.index(self.best) + 1 if self.best < math.inf else 0

    @property
    def objectives(self) -> tuple[float, ...]:
        """The lowest value and the further objectives at its epoch; infinity where there is none."""
        beside = self.also[self.best_epoch - 1] if self.also and self.best_epoch else ()
        return self.best, *(value if math.isfinite(value) else math.inf for value in beside)

    @property
    def keeps_limits(self) -> bool:
        """Whether every limit is kept at the best epoch, of which the network is kept; true without limits."""
        return not self.excess or not self.best_epoch or all(e <= 0 for e in self.excess[self.best_epoch - 1])


@dataclass(frozen=True, slots=True)
class History:
    """What a searcher or scheduler may know: every trial so far, in order of number."""

    trials: tuple[TrialRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Train a new trial with this configuration until this epoch.

    With `parent`, a paused trial, it begins where that one stands: with its network, its optimiser and its epochs. A
    parent that is continued by the same decision comes after its children.
    """

    config: Config
    until_epoch: int
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Continue a paused trial from its checkpoint until this epoch."""

    trial: int
    until_epoch: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Never continue this paused trial. Takes no place among the trials in flight."""

    trial: int
    reason: str


Assignment = Start | Continue | Stop


@dataclass(frozen=True, slots=True)
class Job:
    """An assignment made ready for an executor: all that decides the trial's result is in here."""

    trial: int
    config: Config
    seed: int
    until_epoch: int
    max_epochs: int  # the last epoch of the study; schedules are laid out over it
    parent: int | None = None  # the trial whose checkpoint after `born` epochs it begins with
    born: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial measured, after an epoch or within one.

    `epoch` counts completed epochs; 0 is before the first, so (epoch 0, step 0) is the untrained network.
    `metrics` has plain names: train_loss, val_loss, val_error, lr, grad_norm, examples_per_second ...
    """

    trial: int
    epoch: int
    step: int
    metrics: dict[str, float]
    seconds: float = 0.0  # of training and validation, since the trial began
    epoch_end: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an assignment ended: `status` is PAUSED where the trial may go on."""

    trial: int
    status: Status
    epoch: int
    reason: str = ""
    detail: str = ""  # a traceback


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell the user and to keep in the event log; not a result."""

    kind: str
    message: str
    trial: int | None = None


Event = Outcome | Notice


@dataclass(frozen=True, slots=True)
class Limit:
    """A metric may be at most `bound`, or at least that.

    >>> Limit.parse("latency_ms <= 5"), str(Limit("val_accuracy", 0.9, at_least=True))
    (Limit(metric='latency_ms', bound=5.0, at_least=False), 'val_accuracy >= 0.9')
    """

    metric: str
    bound: float
    at_least: bool = False

    @classmethod
    def parse(cls, text: str) -> Limit:
        """A limit as people write it. Raises SettingError where it is not METRIC <= NUMBER or METRIC >= NUMBER."""
        found = re.fullmatch(r"\s*([^\s<>=]+)\s*(<=|>=)\s*(\S+)\s*", text)
        try:
            metric, sign, bound = found.groups() if found else ("", "", "")
            if not math.isfinite(float(bound)):
                raise ValueError
        except ValueError:
            raise SettingError(
                f"limit {text!r}: write METRIC <= NUMBER or METRIC >= NUMBER: 'latency_ms <= 5'."
            ) from None
        return cls(metric, float(bound), at_least=sign == ">=")

    def excess(self, value: float) -> float:
        """By how much a value breaks the limit; at most 0 where it keeps it."""
        return self.bound - value if self.at_least else value - self.bound

    def value(self, excess: float) -> float:
        """The value that breaks the limit by so much."""
        return self.bound - excess if self.at_least else self.bound + excess

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.at_least else '<='} {repr(self.bound).removesuffix('.0')}"


@dataclass(frozen=True, slots=True)
class Goals:
    """What a study is after beside its metric: further objectives with their directions, and limits to be kept."""

    also: tuple[tuple[str, str], ...] = ()
    limits: tuple[Limit, ...] = ()

    @classmethod
    def parse(cls, metric: str, also: Mapping[str, str], limits: Sequence[str]) -> Goals:
        """The goals of a study that is tuned for `metric`.

        Raises SettingError for a limit or direction in no known form, and for a metric or limit that is named twice.
        """
        for name, direction in also.items():
            if direction not in DIRECTIONS:
                raise SettingError(f"also {name!r}: " + unknown("direction", direction, DIRECTIONS))
            if name == metric:
                raise SettingError(f"also {name!r} is what this study is tuned for already: name other metrics.")
        if isinstance(limits, str):
            raise SettingError(f"limits={limits!r}: give a list, such as [{limits!r}].")
        parsed = tuple(Limit.parse(text) for text in limits)
        ends = [(limit.metric, limit.at_least) for limit in parsed]
        for limit in parsed:
            if ends.count((limit.metric, limit.at_least)) > 1:
                raise SettingError(f"limits name {limit.metric!r} twice: keep the stricter one.")
        return cls(tuple(also.items()), parsed)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Goals:
        """The goals that `describe` described."""
        limits = tuple(map(Limit.parse, description.get("limits", ())))
        return cls(tuple(description.get("also", {}).items()), limits)

    def __bool__(self) -> bool:
        return bool(self.also or self.limits)

    @property
    def metrics(self) -> list[str]:
        """The metrics that trials report for them."""
        return list(dict.fromkeys([*(name for name, _ in self.also), *(limit.metric for limit in self.limits)]))

    def carried(self, before: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
        """What is known of these metrics after an epoch: as it measured them, else as they were known before."""
        now = {name: metrics.get(name, math.nan) for name in self.metrics}
        return {**before, **{name: value for name, value in now.items() if not math.isnan(value)}}

    def also_of(self, measured: Mapping[str, float]) -> tuple[float, ...]:
        """The further objectives, to be minimised; NaN where one was not measured."""
        return tuple(
            (-1 if direction == "maximize" else 1) * measured.get(name, math.nan) for name, direction in self.also
        )

    def excess_of(self, measured: Mapping[str, float]) -> tuple[float, ...]:
        """By how much each limit is broken, at most 0 where it is kept; NaN where it was not measured."""
        return tuple(limit.excess(measured.get(limit.metric, math.nan)) for limit in self.limits)

    def broken(self, excess: Sequence[float]) -> list[str]:
        """The broken limits in words.

        >>> Goals(limits=(Limit("latency_ms", 5.0), Limit("memory_mb", 500.0))).broken([2.2, -20.0])
        ['latency_ms 7.2, allowed 5']
        """
        return [
            f"{limit.metric} {'not measured' if math.isnan(e) else f'{limit.value(e):.4g}'}, "
            f"{'needed' if limit.at_least else 'allowed'} {limit.bound:.4g}"
            for limit, e in zip(self.limits, excess, strict=True)
            if not e <= 0
        ]

    def describe(self) -> dict[str, Any]:
        """As JSON-like values; empty where there are none."""
        return {"also": dict(self.also), "limits": [str(limit) for limit in self.limits]} if self else {}


NO_GOALS = Goals()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a study stands at one moment, to be shown. The user sees the trials' values times `sign`."""

    study: str
    metric: str
    sign: int  # 1 where the metric is minimised, -1 where it is maximised
    trials: tuple[TrialRecord, ...]
    trials_wanted: int | None
    max_epochs: int | None
    epochs: int  # trained so far, all trials together
    seconds: float  # since this session began
    seconds_left: float | None  # an estimate
    places: int  # trials that train at the same time
    training: frozenset[int] = frozenset()  # trials that are training now
    state: str = "running"  # running, paused, stopping, finished
    goals: Goals = NO_GOALS


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a study ran, for its report and for anyone who repeats it."""

    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    data_fingerprint: str = ""


def fingerprint(value: object) -> str:
    """Twelve hexadecimal digits that are equal for equal JSON-like values on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts and nothing else.

    >>> derive_seed(0, "trial", 7) == derive_seed(0, "trial", 7) != derive_seed(0, "trial", 8)
    True
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def trial_seed(study_seed: int, trial: int) -> int:
    """The seed of a trial: of its initial weights, its batches, and all else that is random in it."""
    return derive_seed(study_seed, "trial", trial)
