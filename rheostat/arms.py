"""The arms of a comparison: what is varied, what is tuned anew for each value, and what stays as it is.

These are the scientific, nuisance and fixed hyperparameters of the Deep Learning Tuning Playbook (Godbole et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rheostat import hyperparameters
from rheostat.errors import SettingError, unknown
from rheostat.space import Choice, Float, Hyperparameter, Int, Space
from rheostat.train import optimizers, randomness
from rheostat.train.held_out import examples
from rheostat.train.loop import Recorder
from rheostat.train.task import Task
from rheostat.types import Config, Scalar

# From how many trials on each is tuned. The Playbook tunes the learning rate alone with fewer than ten.
NUISANCE = {"lr": 2, "weight_decay": 10, "schedule": 25}
POWERS = {"fixed": 0.0, "linear": 1.0, "sqrt": 0.5}  # with which lr follows the varied value
RULES = ("tuned", *POWERS, "default")
WIDTHS = ("units", "hidden", "channels")
EQUAL_WITHIN = 0.05  # numbers of parameters
WIDEST = 2**16


@dataclass(frozen=True)
class Arm:
    """A value of the varied hyperparameter, and the space in which the others are tuned for it."""

    varied: str
    value: Scalar
    space: Space
    epochs: int
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.varied}={self.value}"

    def changed(self, **values: Scalar) -> Arm:
        """The same with some hyperparameters fixed to these values."""
        return replace(self, space=Space({**self.space.tuned, **self.space.fixed, **values}))


def nuisance_of(space: Space, varied: str, trials: int, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """The hyperparameters that are tuned anew for each arm, never the varied one.

    Those asked for; else lr where the space does not fix it, and where the space tunes them weight_decay from ten
    trials on and the schedule from 25. Raises SettingError for a name that cannot be tuned.
    """
    if asked is None:
        tunable = [name for name in NUISANCE if name in space.tuned or (name == "lr" and name not in space.fixed)]
        return tuple(name for name in tunable if name != varied and trials >= NUISANCE[name])
    for name in asked:
        if name == varied:
            raise SettingError(f"{name} is what is compared, so it cannot be tuned for each value as well.")
        if name not in space.tuned and name not in hyperparameters.names():
            known = dict.fromkeys([*space.tuned, *hyperparameters.names()])
            raise SettingError(unknown("hyperparameter to tune", name, known))
    return tuple(dict.fromkeys(asked))


def arm_space(space: Space, varied: str, value: Scalar, nuisance: Sequence[str], lr: str = "tuned") -> Space:
    """The space of one arm: the nuisance ones are tuned, everything else is fixed at its given or likeliest value.

    Where the catalogue has a range of its own for this value (the learning rate of each optimiser), that is taken.
    With `lr="default"`, the optimiser's own defaults are: of its hyperparameters none is set.
    """
    left_out = optimizers.all_reads() - {varied} if lr == "default" else frozenset()
    parts: dict[str, Hyperparameter | Scalar] = {**space.tuned, **space.fixed}
    parts |= {n: _range(space, n, varied, value) for n in dict.fromkeys([*space.tuned, *nuisance])}
    parts = {n: part for n, part in parts.items() if n not in left_out} | {varied: value}
    likely = Space(parts).likely()
    tuned = {n: part for n in nuisance if n in likely and isinstance(part := parts.get(n), Float | Int | Choice)}
    return Space({**tuned, **{n: v for n, v in likely.items() if n not in tuned}})


def _range(space: Space, name: str, varied: str, value: Scalar) -> Hyperparameter:
    own = space.tuned.get(name)
    if name not in hyperparameters.names():
        assert own is not None, f"{name} was checked"
        return own
    entry = hyperparameters.get(name)
    if own is None or (name != varied and any(varied in case.when for case in entry.cases)):
        return replace(entry.part(**{varied: value}), when={} if own is None else own.when)
    return own


def follow(arm: Arm, task: Task, reference: Config, lr: str) -> Arm:
    """The arm with the reference's configuration, its lr scaled by a power of how many times as large the value is.

    Raises SettingError where the values are no numbers to scale by.
    """
    rate = reference.get("lr", optimizers.learning_rate(reference))
    factor = 1.0 if lr == "fixed" else _size(task, arm) / _size(task, replace(arm, value=reference[arm.varied]))
    scaled = rate if factor == 1 else float(f"{rate * factor ** POWERS[lr]:.4g}")
    return replace(arm, space=Space({**reference, arm.varied: arm.value, "lr": scaled}))


def _size(task: Task, arm: Arm) -> float:
    if arm.value == "full" and not callable(task.train):
        return float(examples(task.train))
    if isinstance(arm.value, int | float) and arm.value > 0:
        return float(arm.value)
    raise SettingError(f"lr cannot be scaled with {arm.label}, which is no number above 0: use lr='tuned' or 'fixed'.")


def parameters(task: Task, config: Config) -> int:
    """How many numbers are trained in the network of a configuration."""
    with randomness.apart():
        model = task.model(config)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def reads(task: Task, config: Config) -> frozenset[str]:
    """The hyperparameters of a configuration that the network reads when it is built."""
    recorder = Recorder(config)
    with randomness.apart():
        task.model(recorder)
    return frozenset(recorder.read)


def with_equal_parameters(task: Task, arms: Sequence[Arm], reference: int) -> list[Arm]:
    """The arms with a width at which their networks have as many parameters as the reference's, within 5 %.

    The width is the first of units, hidden and channels that the network reads and that is not varied. An arm in
    which no width comes so close says so in its notes. Raises SettingError where there is no width to change.
    """
    config = arms[reference].space.likely()
    read = reads(task, config)
    varied, fixed = arms[reference].varied, arms[reference].space.fixed
    name = next((n for n in WIDTHS if n in read and n in fixed and n != varied), None)
    if name is None:
        raise SettingError(
            f"Parameters cannot be made equal: of {', '.join(WIDTHS)} the network reads none that is neither varied "
            "nor tuned here. Make epochs or seconds equal instead."
        )
    wanted = parameters(task, config)
    return [arm if i == reference else _widened(task, arm, name, wanted) for i, arm in enumerate(arms)]


def _widened(task: Task, arm: Arm, name: str, wanted: int) -> Arm:
    """By bisection: the number of parameters rises with the width."""
    step = int(arm.space.fixed.get("heads") or 1)  # of a transformer, whose width they divide

    def count(steps: int) -> int:
        return parameters(task, arm.changed(**{name: steps * step}).space.likely())

    low, high = 1, 1
    while count(high) < wanted and high * step < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    best = min((low, high), key=lambda steps: abs(count(steps) - wanted))
    off = count(best) / wanted - 1
    notes = arm.notes
    if abs(off) > EQUAL_WITHIN:
        notes += (f"{arm.label} has {count(best):,} parameters, {off:+.0%} of the {wanted:,} it should have",)
    return replace(arm.changed(**{name: best * step}), notes=notes)
