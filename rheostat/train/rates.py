"""Learning rates: which rate does each update use?

A rate is a pure function of the step, which counts updates from 0, so a trial continued in another process
uses the same rates. Past their last step all rates stay at their end. Only `ReduceOnPlateau` has a state: a
factor on top of the rate, set by the validation results.

`from_config` reads these names. Epochs and fractions are laid out over the training steps that are left after
the warmup, so every schedule starts at `lr` and ends where it should, with or without a warmup.

============  ==================================================  ==========================================
schedule      rate of an update                                   reads, with defaults
============  ==================================================  ==========================================
constant      lr
step          lr · decay_rate ^ ⌊epochs / decay_every⌋            decay_rate 0.1, decay_every a third of all
exponential   lr · decay_rate ^ (epochs / decay_every)            decay_rate 0.96, decay_every 1, staircase
inverse_time  lr / (1 + decay_rate · epochs / decay_every)        decay_rate 0.1, decay_every 1, staircase
linear        straight down to lr · final_lr_fraction             final_lr_fraction 0
polynomial    the same along (1 - progress) ^ power               final_lr_fraction 0, power 1
piecewise     lr · lr_fractions[i] after boundaries[i-1] epochs   boundaries, lr_fractions: both are needed
cosine        half a cosine down to lr · final_lr_fraction        final_lr_fraction 0, cycles 1
one_cycle     up to lr, then down to lr · final_lr_fraction       initial_lr_fraction 0.04, warmup 0.3,
                                                                  final_lr_fraction 4e-6
wsd           lr, and down over the last `cooldown` of all steps  cooldown 0.2, cooldown_shape linear,
                                                                  final_lr_fraction 0
plateau       lr, times plateau_factor at every plateau           as `ReduceOnPlateau`, after `plateau_`;
                                                                  final_lr_fraction 0 is its min_scale
============  ==================================================  ==========================================

All read `lr` (default: the optimiser's) and `warmup`, a fraction of all steps (default 0). `boundaries` and
`lr_fractions` are numbers in a text, such as "30, 60" and "1, 0.1, 0.01". `from_config` checks every value;
the classes trust theirs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeVar

from rheostat.errors import TaskError, unknown
from rheostat.train.optimizers import BELOW_ONE, NOT_NEGATIVE, POSITIVE, Allowed, learning_rate, number

Counting = Literal["torch", "keras"]
ThresholdMode = Literal["rel", "abs"]
CooldownShape = Literal["linear", "1-sqrt"]
Name = TypeVar("Name", bound=str)

SHAPES: tuple[CooldownShape, ...] = ("linear", "1-sqrt")
COUNTINGS: tuple[Counting, ...] = ("torch", "keras")
THRESHOLD_MODES: Mapping[Counting, tuple[ThresholdMode, ...]] = {
    "torch": ("rel", "abs"),
    "keras": ("abs", "rel"),
}
PLATEAU = tuple(
    f"plateau_{name}" for name in ("factor", "patience", "threshold", "threshold_mode", "cooldown", "counting")
)

PIECEWISE_EXAMPLE = 'Write boundaries="30, 60" (epochs) with lr_fractions="1, 0.1, 0.01".'

SHARE = Allowed("from 0 to 1", lambda value: 0 <= value <= 1)
FACTOR = Allowed("greater than 0 and at most 1", lambda value: 0 < value <= 1)
SHRINKING = Allowed("greater than 0 and less than 1", lambda value: 0 < value < 1)


class Rate(Protocol):
    """The learning rate of the update number `step`, counted from 0."""

    def __call__(self, step: int) -> float: ...


def _between(start: float, end: float, part: float) -> float:
    """From `start` (part 1) to `end` (part 0), exact at both."""
    return start * part + end * (1 - part)


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class StepDecay:
    """lr · factor ^ ⌊step / every_steps⌋; PyTorch's StepLR.

    >>> rate = StepDecay(0.1, factor=0.5, every_steps=10)
    >>> rate(9), rate(10)
    (0.1, 0.05)
    """

    lr: float
    factor: float
    every_steps: int

    def __call__(self, step: int) -> float:
        return float(self.lr * self.factor ** (step // self.every_steps))


@dataclass(frozen=True)
class Exponential:
    """lr · decay_rate ^ (step / decay_steps), the exponent rounded down with `staircase`.

    Source: `tf.train.exponential_decay`.
    """

    lr: float
    decay_rate: float
    decay_steps: float
    staircase: bool = False

    def __call__(self, step: int) -> float:
        exponent = step / self.decay_steps
        return float(self.lr * self.decay_rate ** (math.floor(exponent) if self.staircase else exponent))


@dataclass(frozen=True)
class InverseTime:
    """lr / (1 + decay_rate · step / decay_steps), the quotient rounded down with `staircase`.

    Source: `tf.train.inverse_time_decay`.
    """

    lr: float
    decay_rate: float
    decay_steps: float
    staircase: bool = False

    def __call__(self, step: int) -> float:
        time = step / self.decay_steps
        return self.lr / (1 + self.decay_rate * (math.floor(time) if self.staircase else time))


@dataclass(frozen=True)
class Polynomial:
    """(lr - end) · (1 - step / total_steps) ^ power + end; a straight line for power 1.

    Source: `tf.train.polynomial_decay`.

    >>> rate = Polynomial(1.0, total_steps=4)
    >>> [rate(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    lr: float
    total_steps: int
    end: float = 0.0
    power: float = 1.0

    def __call__(self, step: int) -> float:
        left = 1 - min(step, self.total_steps) / self.total_steps
        return _between(self.lr, self.end, left**self.power)


@dataclass(frozen=True)
class Piecewise:
    """values[0] as long as step <= boundaries[0], values[1] as long as step <= boundaries[1], and so on.

    Source: `tf.train.piecewise_constant`.
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        return self.values[bisect_left(self.boundaries, step)]


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `lr` down to `end`; with several cycles, each starts at `lr` again.

    Source: Loshchilov and Hutter 2017 (SGDR), equation 5, with cycles of equal length.
    """

    lr: float
    total_steps: int
    end: float = 0.0
    cycles: int = 1

    def __call__(self, step: int) -> float:
        if step >= self.total_steps:
            return self.end
        progress = step * self.cycles % self.total_steps / self.total_steps
        return _between(self.lr, self.end, (1 + math.cos(math.pi * progress)) / 2)


@dataclass(frozen=True)
class OneCycle:
    """Up from `start` to `lr` over the share `rise` of the steps, then down to `end`, both by cosines.

    Source: Smith and Topin 2017 (arXiv 1708.07120), laid out as PyTorch's OneCycleLR with two phases.
    """

    lr: float
    total_steps: int
    start: float
    end: float
    rise: float = 0.3

    def __call__(self, step: int) -> float:
        last = self.total_steps - 1
        top = max(self.rise * self.total_steps - 1, 0.0)  # the step of the peak, which may lie between two steps
        step = min(step, last)
        if step <= top:
            part = (1 - math.cos(math.pi * step / top)) / 2 if top > 0 else 1.0
            return _between(self.lr, self.start, part)
        return _between(self.lr, self.end, (1 + math.cos(math.pi * (step - top) / (last - top))) / 2)


@dataclass(frozen=True)
class StableDecay:
    """`lr`, but for the last `cooldown_steps`, which go down to `end` along `1 - x` or `1 - √x`.

    With a `Warmup` around it, this is the trapezoid known as WSD. Until the cooldown it does not depend on
    `total_steps`. Source: Hägele et al. 2024 (arXiv 2405.18392), equations 1 and 2.
    """

    lr: float
    total_steps: int
    cooldown_steps: int
    end: float = 0.0
    shape: CooldownShape = "linear"

    def __call__(self, step: int) -> float:
        cooled = min(step, self.total_steps) - (self.total_steps - self.cooldown_steps)
        if cooled <= 0:
            return self.lr
        progress = cooled / self.cooldown_steps
        return _between(self.lr, self.end, 1 - (progress if self.shape == "linear" else math.sqrt(progress)))


@dataclass(frozen=True)
class Warmup:
    """A straight line up to the first rate of `rate` during `steps` updates, then `rate` from its own step 0.

    The update number `step < steps` uses rate(0) · (step + 1) / (steps + 1): never zero, and the update
    number `steps` is the first at full rate. The inner rate is shifted: it loses nothing of its own course.

    >>> rate = Warmup(Constant(1.0), steps=3)
    >>> [rate(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    rate: Rate
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.rate(0) * ((step + 1) / (self.steps + 1))
        return self.rate(step - self.steps)


@dataclass
class ReduceOnPlateau:
    """A factor on the learning rate, made smaller when a value to be minimised no longer improves.

    An improvement is a value below the best by more than `threshold`, a share of the size of the best (`rel`)
    or a plain difference (`abs`); NaN never is one. `counting` follows one of two frameworks:

    - `torch` (torch.optim.lr_scheduler.ReduceLROnPlateau; its threshold is `rel`): reduces after *more than*
      `patience` values without an improvement; no value during the cooldown counts.
    - `keras` (keras.callbacks.ReduceLROnPlateau; its threshold is `abs`): reduces after `patience` such
      values; the last value of the cooldown counts.

    Maximise with `-value`: that gives what both do with mode="max". (For negative values PyTorch's own
    relative threshold lets slightly *worse* ones pass as improvements; this one does not.)

    >>> plateau = ReduceOnPlateau(factor=0.5, patience=1)
    >>> for value in (1.0, 0.9, 0.9, 0.9):
    ...     plateau.update(value)
    >>> plateau.scale
    0.5
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: ThresholdMode = "rel"
    cooldown: int = 0
    min_scale: float = 0.0  # of the factor; min_lr divided by the base rate
    counting: Counting = "torch"
    scale: float = field(default=1.0, init=False)  # multiplies the base rate
    best: float = field(default=math.inf, init=False)
    bad: int = field(default=0, init=False)  # values since the best
    cooling: int = field(default=0, init=False)  # values left of the cooldown

    def update(self, value: float) -> None:
        """Take the result of a validation, to be minimised."""
        keras = self.counting == "keras"
        if keras and self.cooling:
            self.cooling -= 1
        improved = value < self._bound()
        if improved:
            self.best = value
        self.bad = 0 if improved or self.cooling else self.bad + 1
        if not keras and self.cooling:
            self.cooling -= 1
        if self.bad >= (max(self.patience, 1) if keras else self.patience + 1):
            self.scale = max(self.scale * self.factor, self.min_scale)
            self.cooling, self.bad = self.cooldown, 0

    def _bound(self) -> float:
        """What a value must be below to be an improvement."""
        if self.threshold_mode == "abs":
            return self.best - self.threshold
        return self.best * (1 - self.threshold if self.best > 0 else 1 + self.threshold)

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "best": self.best, "bad": self.bad, "cooling": self.cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scale, self.best = state["scale"], state["best"]
        self.bad, self.cooling = state["bad"], state["cooling"]


@dataclass(frozen=True)
class _Plan:
    """What a schedule is made from: the configuration, and the steps it is laid out over."""

    config: Mapping[str, Any]
    lr: float
    steps_per_epoch: int
    total_steps: int
    steps: int  # after the warmup

    def number(self, name: str, default: float, allowed: Allowed) -> float:
        return number(self.config, name, default, allowed)

    def whole(self, name: str, default: int, at_least: int) -> int:
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise TaskError(f"{name}={value!r} is not allowed: give a whole number from {at_least}.")
        return value

    def choice(self, name: str, known: tuple[Name, ...]) -> Name:
        """One of the known names; the first where none is given."""
        value = self.config.get(name)
        if value is None:
            return known[0]
        if value not in known:
            raise TaskError(unknown(name, value, known))
        return known[known.index(value)]

    def staircase(self) -> bool:
        value = self.config.get("staircase", False)
        if not isinstance(value, bool | None):
            raise TaskError(f"staircase={value!r} is not allowed: give true or false.")
        return bool(value)

    def numbers(self, name: str, allowed: Allowed) -> list[float]:
        """The numbers in a text; a number may stand alone."""
        value = self.config.get(name)
        try:
            return [number({name: float(part)}, name, 0.0, allowed) for part in str(value).split(",")]
        except ValueError:  # also of `number`
            raise TaskError(
                f"{name}={value!r} is not allowed: give finite numbers {allowed.words}. {PIECEWISE_EXAMPLE}"
            ) from None

    def end(self, fraction: float = 0.0) -> float:
        return self.lr * self.number("final_lr_fraction", fraction, SHARE)

    def decay_steps(self, epochs: float) -> int:
        return max(round(self.number("decay_every", epochs, POSITIVE) * self.steps_per_epoch), 1)


def _constant(plan: _Plan) -> Rate:
    return Constant(plan.lr)


def _step(plan: _Plan) -> Rate:
    third = plan.steps / plan.steps_per_epoch / 3
    return StepDecay(plan.lr, plan.number("decay_rate", 0.1, FACTOR), plan.decay_steps(third))


def _exponential(plan: _Plan) -> Rate:
    rate = plan.number("decay_rate", 0.96, FACTOR)
    return Exponential(plan.lr, rate, plan.decay_steps(1), plan.staircase())


def _inverse_time(plan: _Plan) -> Rate:
    rate = plan.number("decay_rate", 0.1, NOT_NEGATIVE)
    return InverseTime(plan.lr, rate, plan.decay_steps(1), plan.staircase())


def _linear(plan: _Plan) -> Rate:
    return Polynomial(plan.lr, plan.steps, plan.end())


def _polynomial(plan: _Plan) -> Rate:
    return Polynomial(plan.lr, plan.steps, plan.end(), plan.number("power", 1.0, POSITIVE))


def _piecewise(plan: _Plan) -> Rate:
    epochs, fractions = plan.numbers("boundaries", POSITIVE), plan.numbers("lr_fractions", SHARE)
    if len(fractions) != len(epochs) + 1 or any(later <= earlier for earlier, later in pairwise(epochs)):
        given = {name: plan.config[name] for name in ("boundaries", "lr_fractions")}
        raise TaskError(f"{given}: boundaries must rise, with one fraction more. {PIECEWISE_EXAMPLE}")
    # The update number b · steps_per_epoch is the first after b epochs: the last before it is the boundary.
    boundaries = tuple(round(b * plan.steps_per_epoch) - 1 for b in epochs)
    return Piecewise(boundaries, tuple(plan.lr * fraction for fraction in fractions))


def _cosine(plan: _Plan) -> Rate:
    return Cosine(plan.lr, plan.steps, plan.end(), plan.whole("cycles", 1, at_least=1))


def _one_cycle(plan: _Plan) -> Rate:
    start = plan.lr * plan.number("initial_lr_fraction", 1 / 25, SHARE)
    rise = plan.number("warmup", 0.3, SHARE)
    return OneCycle(plan.lr, plan.total_steps, start, plan.end(1 / 25e4), rise)


def _wsd(plan: _Plan) -> Rate:
    cooldown = round(plan.number("cooldown", 0.2, SHARE) * plan.total_steps)
    shape = plan.choice("cooldown_shape", SHAPES)
    return StableDecay(plan.lr, plan.steps, min(cooldown, plan.steps), plan.end(), shape)


def _plateau(plan: _Plan) -> ReduceOnPlateau:
    counting = plan.choice("plateau_counting", COUNTINGS)
    mode = plan.choice("plateau_threshold_mode", THRESHOLD_MODES[counting])
    return ReduceOnPlateau(
        factor=plan.number("plateau_factor", 0.1, SHRINKING),
        patience=plan.whole("plateau_patience", 10, at_least=0),
        threshold=plan.number("plateau_threshold", 1e-4, BELOW_ONE if mode == "rel" else NOT_NEGATIVE),
        threshold_mode=mode,
        cooldown=plan.whole("plateau_cooldown", 0, at_least=0),
        min_scale=plan.number("final_lr_fraction", 0.0, SHARE),
        counting=counting,
    )


@dataclass(frozen=True)
class Schedule:
    """How a schedule is built, and the names it reads beside `lr` and `warmup`."""

    make: Callable[[_Plan], Rate]
    names: tuple[str, ...] = ()


SCHEDULES: Mapping[str, Schedule] = {
    "constant": Schedule(_constant),
    "step": Schedule(_step, ("decay_rate", "decay_every")),
    "exponential": Schedule(_exponential, ("decay_rate", "decay_every", "staircase")),
    "inverse_time": Schedule(_inverse_time, ("decay_rate", "decay_every", "staircase")),
    "linear": Schedule(_linear, ("final_lr_fraction",)),
    "polynomial": Schedule(_polynomial, ("final_lr_fraction", "power")),
    "piecewise": Schedule(_piecewise, ("boundaries", "lr_fractions")),
    "cosine": Schedule(_cosine, ("final_lr_fraction", "cycles")),
    "one_cycle": Schedule(_one_cycle, ("initial_lr_fraction", "final_lr_fraction")),
    "wsd": Schedule(_wsd, ("cooldown", "cooldown_shape", "final_lr_fraction")),
    "plateau": Schedule(_constant, ("final_lr_fraction", *PLATEAU)),
}


def reads(schedule: str) -> frozenset[str]:
    """The hyperparameters that a schedule reads. Raises TaskError for an unknown one.

    >>> sorted(reads("linear"))
    ['final_lr_fraction', 'lr', 'warmup']
    """
    return frozenset({"lr", "warmup", *_schedule(schedule).names})


def all_reads() -> frozenset[str]:
    """The hyperparameters that any schedule reads."""
    return frozenset().union(*map(reads, SCHEDULES))


def _schedule(name: object) -> Schedule:
    if not isinstance(name, str) or name not in SCHEDULES:
        raise TaskError(unknown("schedule", name, SCHEDULES))
    return SCHEDULES[name]


def from_config(
    config: Mapping[str, Any], steps_per_epoch: int, total_steps: int
) -> tuple[Rate, ReduceOnPlateau | None]:
    """The learning rate of a configuration, and the factor on it for schedule="plateau".

    Without a `schedule` the rate is constant. Names that the schedule does not read are ignored.
    Raises TaskError for an unknown schedule or a bad value.

    >>> rate, plateau = from_config({"lr": 0.1, "schedule": "linear", "warmup": 0.5}, 2, 8)
    >>> [round(rate(step), 3) for step in range(8)]
    [0.02, 0.04, 0.06, 0.08, 0.1, 0.075, 0.05, 0.025]
    """
    name = config.get("schedule")
    name = "constant" if name is None else name
    schedule = _schedule(name)
    warmup_steps = 0
    if name != "one_cycle":  # its rise is its warmup
        warmup_steps = round(number(config, "warmup", 0.0, SHARE) * total_steps)
    steps = max(total_steps - warmup_steps, 1)
    plan = _Plan(config, learning_rate(config), steps_per_epoch, total_steps, steps)
    rate = schedule.make(plan)
    if warmup_steps:
        rate = Warmup(rate, warmup_steps)
    return rate, _plateau(plan) if name == "plateau" else None
