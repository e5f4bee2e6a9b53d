"""What diagnosis is about: a run as it was observed, symptoms, pathologies, and what may be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rheostat.types import Config, Scalar, Status

Curve = NDArray[np.float64]  # (E,) after epochs 1 to E; NaN where it was not measured

HEALTHY = "healthy"


@dataclass(frozen=True)
class Observations:
    """One training run as it was observed. Everything but `curves` may be empty.

    `curves` are by plain names: train_loss, val_loss, val_error, lr, grad_norm, and what `train/vitals.py` adds.
    `first` are the batch losses at the first steps, by the number of updates before them; 0 is the untrained
    network. `layers` are curves of a measure (update_ratio, gradient_norm, dead, saturated) by layer, in the order
    in which they run. `facts` are numbers that stay: classes (where the loss is their cross-entropy), prior_loss (of
    one who knows the frequencies of the classes alone), examples, validation_examples, steps_per_epoch.
    """

    curves: Mapping[str, Curve]
    first: Mapping[int, float] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    config: Config = field(default_factory=Config)
    status: Status = Status.DONE
    reason: str = ""
    max_epochs: int = 0  # of the study; schedules are laid out over it
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        return max((len(curve) for curve in self.curves.values()), default=0)

    def curve(self, name: str) -> Curve:
        """A curve (E,); all NaN where it was not measured."""
        known = self.curves.get(name)
        return np.full(self.epochs, np.nan) if known is None else known

    def until(self, epoch: int) -> Observations:
        """The same run as it was known after an epoch, still in training."""
        layers = {m: {n: curve[:epoch] for n, curve in by.items()} for m, by in self.layers.items()}
        curves = {name: curve[:epoch] for name, curve in self.curves.items()}
        status = self.status if self.epochs <= epoch else Status.TRAINING
        reason = self.reason if status.ended else ""
        return replace(self, curves=curves, layers=layers, status=status, reason=reason)


@dataclass(frozen=True)
class Symptom:
    """Something seen in a run, in a sentence with its numbers.

    `since` is the epoch at which it was first seen, 0 before the first update: causes come before their symptoms.
    """

    text: str
    since: int = 0


@dataclass(frozen=True)
class Action:
    """What may be done: in words, and as hyperparameters to multiply or to set where they can be.

    >>> Action("Divide the learning rate by 3.", times={"lr": 1 / 3}).apply(Config(lr=0.3, units=8))
    Config(lr=0.1, units=8)
    """

    text: str
    times: Mapping[str, float] = field(default_factory=dict)
    set: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def automatic(self) -> bool:
        """Whether it can be done by changing hyperparameters alone."""
        return bool(self.times or self.set)

    def apply(self, config: Config) -> Config:
        """The changed configuration; a hyperparameter to be multiplied that it lacks stays away.

        Whole numbers stay whole and at least 1.
        """
        changed = dict(config)
        for name, factor in self.times.items():
            value = changed.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                product = value * factor
                changed[name] = max(round(product), 1) if isinstance(value, int) else float(f"{product:.6g}")
        return Config({**changed, **self.set})


Detector = Callable[[Observations], Sequence[Symptom]]
Remedy = Callable[[Observations], Action]


@dataclass(frozen=True)
class Pathology:
    """One thing that can be wrong with a run.

    `detect` is its rule: the symptoms that speak for it, empty where nothing does. `learnt` says that the
    classifier knows it, so that its probability comes from there and the rule gives the evidence alone; otherwise
    `certainty` is how often the rule is right where it speaks. `confused_with` are names of other pathologies.
    `leads_to` are pathologies that are mere symptoms where this one came first. `probe` is the counterfactual that
    would decide.
    """

    name: str
    title: str
    words: str  # what happens, for the user, in one or two sentences
    detect: Detector
    remedy: Remedy
    learnt: bool = False
    certainty: float = 0.9
    confused_with: tuple[str, ...] = ()
    leads_to: tuple[str, ...] = ()
    probe: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """A pathology that a run may have, with what speaks for it."""

    name: str
    title: str
    probability: float
    evidence: tuple[str, ...]
    advice: Action
    since: int = 0
    explains: tuple[str, ...] = ()  # pathologies that are symptoms of this one here


@dataclass(frozen=True)
class Diagnosis:
    """Why a run went as it did: its causes, the likeliest first.

    `sure` says whether the first can be relied upon; otherwise `probe` names the counterfactual that would decide.
    """

    verdict: str  # one sentence
    causes: tuple[Cause, ...]
    healthy: float  # probability
    sure: bool
    probe: str = ""
