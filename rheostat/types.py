"""Frozen values that cross doors. Objectives in here are always minimised."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rheostat.errors import SpaceError, unknown

Scalar = bool | int | float | str | None

UNLIMITED = 10**9  # epochs, where their number is left to the objective


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
    """

    number: int
    config: Config
    status: Status
    values: tuple[float, ...] = ()
    until_epoch: int = 0  # trained, or being trained, to here
    reason: str = ""  # why it ended, in a line
    parent: int | None = None
    born: int = 0

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
