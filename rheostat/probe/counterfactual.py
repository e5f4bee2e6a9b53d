"""What would have happened otherwise? A trial trained on for a little, in several ways side by side.

One run rarely says why it went as it did: a learning rate that is too low looks like too few epochs. Its checkpoint
trained on with three times the rate decides it. Every arm is a trial like any other and differs from the arm "same"
in one thing; all see the same batches in the same order, so that their difference is no noise of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rheostat.diagnose.base import Curve, Observations
from rheostat.diagnose.wording import WIDTHS
from rheostat.types import UNLIMITED, Config, Job, Scalar, derive_seed

FORKS = ("same", "lr_up", "lr_down", "cooldown", "no_regularisation")  # these begin with the network of the trial
ANEW = ("larger", "other_seed")  # and these with a new one
ARMS = (*FORKS, *ANEW)

FACTOR = 3.0  # of the learning rate, up and down
SHARE, FEWEST = 0.1, 2  # of the epochs of a trial, and epochs: how long an arm trains
LOWEST = 1 / 30  # of `lr`, at least, is where a trial stands: three times what a schedule ended at is next to nothing
WIDER = 2
REGULARISERS = ("dropout", "weight_decay", "label_smoothing")

MOST = 5.0  # no logarithm of a ratio is further from 0; an arm that diverged has this


def length(max_epochs: int) -> int:
    """How many epochs an arm trains, in a study whose trials train so many.

    >>> length(20), length(100)
    (2, 10)
    """
    return max(int(SHARE * max_epochs), FEWEST)


def arms(config: Config, epoch: int, epochs: int, lr: float | None = None) -> dict[str, Config]:
    """The configuration of each arm of a trial that has trained `epoch` epochs; each trains `epochs` more, by `jobs`.

    `lr` is the learning rate that the trial last used (`lr` of its reports), where its schedule has moved it. Forks
    keep the rate where it stands, times a factor; the cooldown goes down to zero in a straight line. What would end
    a fork early is out of force. There is no arm without regularisation where there is none, and no larger one where
    no width has a known name.

    Raises TaskError for an unknown optimiser, or a learning rate or weight decay that is not allowed.

    >>> forks = arms(Config(lr=0.1, units=8, schedule="cosine"), epoch=20, epochs=2, lr=0.05)
    >>> list(forks)
    ['same', 'lr_up', 'lr_down', 'cooldown', 'larger', 'other_seed']
    >>> forks["lr_down"]
    Config(lr=0.0166667, units=8, schedule='constant', warmup=0.0)
    """
    from rheostat.train.optimizers import learning_rate  # with torch, which nobody needs who only reads effects

    highest = learning_rate(config)
    rate = max(highest if lr is None else lr, LOWEST * highest)
    steady: dict[str, Scalar] = {**config, "lr": rate, "schedule": "constant", "warmup": 0.0}
    if "epochs" in config:
        steady["epochs"] = epoch + epochs
    if config.get("patience") is not None:  # not None: the checkpoint holds the state of early stopping
        steady["patience"] = UNLIMITED
    share = epochs / (epoch + epochs)
    cooling = Config(schedule="wsd", cooldown=share, cooldown_shape="linear", final_lr_fraction=0.0)
    found = {
        "same": Config(steady),
        "lr_up": Config({**steady, "lr": _figures(rate * FACTOR)}),
        "lr_down": Config({**steady, "lr": _figures(rate / FACTOR)}),
        "cooldown": Config({**steady, **cooling}),
    }
    if strong := _regularisation(config):
        found["no_regularisation"] = Config({**steady, **dict.fromkeys(strong, 0.0)})
    if wide := {name: WIDER * config[name] for name in WIDTHS if isinstance(config.get(name), int)}:
        found["larger"] = Config({**config, **wide})
    found["other_seed"] = config
    return found


def jobs(parent: Job, arms: Mapping[str, Config], epoch: int, epochs: int, first: int) -> dict[str, Job]:
    """The arms of a trial made ready for a runner, numbered from `first`.

    Give every fork the checkpoint of its parent before (`checkpoint.inherit`). Where the trial has not trained, forks
    begin anew too. `parent` is the trial's own job: arms take its seed, and those that begin anew its schedule.
    """
    ready = {}
    for number, (name, config) in enumerate(arms.items(), first):
        if name in FORKS:
            end = epoch + epochs
            ready[name] = Job(number, config, parent.seed, end, end, parent.trial if epoch else None, epoch)
        else:
            seed = derive_seed(parent.seed, "other") if name == "other_seed" else parent.seed
            ready[name] = Job(number, config, seed, min(epochs, parent.max_epochs), parent.max_epochs)
    return ready


def effects(parent: Observations, arms: Mapping[str, Observations]) -> dict[str, float]:
    """What each arm changed, as logarithms of ratios: below 0 where it did better. NaN where it was not trained.

    Of every arm there are three: probe_ARM by the lowest validation loss, probe_ARM_last by the last, and
    probe_ARM_train by the last training loss. Forks are compared with "same"; "same" itself with the trial at its
    end; arms that begin anew with the trial after as many epochs.
    """
    found = {}
    for name in ARMS:
        arm = arms.get(name)
        values = [math.nan] * 3 if arm is None else _compared(name, arm, parent, arms.get("same"))
        for suffix, value in zip(("", "_last", "_train"), values, strict=True):
            found[f"probe_{name}{suffix}"] = value
    return found


def _compared(name: str, arm: Observations, parent: Observations, same: Observations | None) -> list[float]:
    if name in ANEW:
        other = parent.until(arm.epochs)
    elif name == "same":
        other = parent
    elif same is None:
        return [math.nan] * 3
    else:
        other = same
    pairs = [(_own(run.curve("val_loss")), _own(run.curve("train_loss"))) for run in (arm, other)]
    (loss, train), (other_loss, other_train) = pairs
    return [
        _log_ratio(_lowest(loss), _lowest(other_loss)),
        _log_ratio(_last(loss), _last(other_loss)),
        _log_ratio(_last(train), _last(other_train)),
    ]


def _own(curve: Curve) -> Curve:
    """What a trial measured itself: a copy has NaN before it was born. Infinite where it then diverged."""
    measured = np.flatnonzero(~np.isnan(curve))
    own = curve[measured[0] if len(measured) else 0 :]
    return np.where(np.isnan(own), np.inf, own)


def _lowest(curve: Curve) -> float:
    return float(curve.min()) if len(curve) else math.inf


def _last(curve: Curve) -> float:
    return float(curve[-1]) if len(curve) else math.inf


def _log_ratio(value: float, other: float) -> float:
    """NaN where the other is of no use for a comparison; MOST where only this one diverged."""
    if not 0 < other < math.inf:
        return math.nan
    if not math.isfinite(value):
        return MOST
    return float(np.clip(math.log(value / other), -MOST, MOST)) if value > 0 else -MOST


def _regularisation(config: Config) -> list[str]:
    """The names to be set to zero: what is at work here, the optimiser's own weight decay too."""
    from rheostat.train.optimizers import OPTIMIZERS

    strength = {name: config.get(name) or 0.0 for name in REGULARISERS}
    if config.get("weight_decay") is None:
        strength["weight_decay"] = OPTIMIZERS[config.get("optimizer") or "adam"].defaults["weight_decay"]
    return [name for name, value in strength.items() if value > 0]


def _figures(rate: float) -> float:
    return float(f"{rate:.6g}")
