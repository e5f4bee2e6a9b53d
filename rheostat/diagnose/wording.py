"""Numbers, and changes of hyperparameters, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rheostat import hyperparameters
from rheostat.diagnose.base import Action, Observations
from rheostat.types import Scalar

# The counterfactuals of probe/counterfactual.py by name, each in words that end a sentence: "... would tell".
PROBES: Mapping[str, str] = {
    "lr_up": "a few epochs at three times the learning rate",
    "lr_down": "a few epochs at a third of the learning rate",
    "cooldown": "a few epochs in which the learning rate goes down to zero",
    "no_regularisation": "a few epochs without dropout and weight decay",
    "larger": "a few epochs of a network twice as wide",
    "other_seed": "the same run from another seed",
}
WIDTHS = ("units", "hidden", "channels")  # of the families of networks, as their spaces name them
DEPTHS = ("layers", "recurrent_layers")


def number(value: float, digits: int = 4) -> str:
    """With so many significant digits.

    >>> number(0.00012345), number(1234567.0, 2), number(3.0)
    ('0.0001234', '1200000', '3')
    """
    if not math.isfinite(value) or (value and not 1e-4 <= abs(value) < 1e7):
        return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if rounded == int(rounded) else f"{rounded:.10f}".rstrip("0")


def percent(share: float) -> str:
    """A share in percent: whole from 10 on, with two digits below.

    >>> percent(0.4), percent(0.0213), percent(1.34)
    ('40%', '2.1%', '134%')
    """
    rounded = round(100 * share) if 0.1 <= abs(share) < 100 else float(f"{100 * share:.2g}")
    return f"{number(rounded)}%"


def curve_words(name: str) -> str:
    """
    >>> curve_words("val_error"), curve_words("train_loss")
    ('validation error', 'training loss')
    """
    for short, word in (("val_", "validation "), ("train_", "training "), ("probe_", "training ")):
        if name.startswith(short):
            name = word + name.removeprefix(short)
    return name.replace("_", " ")


def times(factor: float) -> str:
    """
    >>> times(3.24), times(0.5)
    ('3.2 times', '0.5 times')
    """
    return f"{number(factor, 2)} times"


def key(run: Observations, name: str) -> str:
    """What the run's configuration calls a hyperparameter: one of its aliases, or its canonical name."""
    if name in run.config:
        return name
    return next((alias for alias in hyperparameters.get(name).aliases if alias in run.config), name)


def value(run: Observations, name: str) -> float:
    """A hyperparameter of the run that is a number; NaN where it has none."""
    found = run.config.get(key(run, name))
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan


def multiplied(run: Observations, name: str, factor: float) -> str:
    """What a hyperparameter becomes, to be put into a sentence: ", to 0.1"; nothing where the run has none."""
    now = value(run, name)
    if math.isnan(now):
        return ""
    changed = Action("", times={key(run, name): factor}).apply(run.config)[key(run, name)]
    return f", to {number(float(changed))}"


def settable(run: Observations, name: str) -> bool:
    """Whether setting a hyperparameter changes the run: it has one, or Rheostat's trainer, which reads it, ran it."""
    return key(run, name) in run.config or bool(run.facts)


def change(
    run: Observations,
    text: str,
    times: Mapping[str, float] | None = None,
    set: Mapping[str, Scalar] | None = None,
) -> Action:
    """An action by canonical names, told by those of the run; what could not be set is left to the words."""
    factors = {key(run, name): factor for name, factor in (times or {}).items()}
    values = {key(run, name): value for name, value in (set or {}).items() if settable(run, name)}
    return Action(text, factors, values)
