"""AutoTrainer: Zhang et al. 2021, *AUTOTRAINER: an automatic DNN training problem detection and repair system*, ICSE.

Section III, table I and the authors' code (utils/monitor.py, utils/repair.py); thresholds are their defaults. Nothing
is judged before 30 % of the planned epochs but a loss that is not finite or is huge. Their names and ours: vanishing
gradient, vanishing_gradient; exploding gradient, diverged; dying ReLU, dead_units; oscillating loss, lr_too_high;
slow convergence, lr_too_low.

Stand-ins: they take a share of gradients that are exactly zero, which is not observed; those of dead units are, so
the share of dead units takes its place. They look for oscillation in the training accuracy, which is known after
some epochs only; the validation accuracy takes its place. Their rules about overfitting are computed in the
code and not used; weights above 5 likewise.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np

from benchmarks.pathologies.published.reading import accuracy, by_epoch, learning_rate
from rheostat.diagnose.base import Action, Curve, Observations
from rheostat.diagnose.shapes import breakdown, measured

BETA_1, BETA_2, BETA_3 = 1e-3, 1e-4, 70.0  # of gradient norms: first to last layer, the first, first to last layer
GAMMA = 0.7  # share of zero gradients
ZETA, ETA = 0.03, 0.2  # height of an oscillation in accuracy, and how many there are in an epoch
DELTA = 0.01  # the largest rise of accuracy in an epoch, below which convergence is slow
THETA = 0.7  # accuracy that satisfies
HUGE_LOSS = 1e3
JUDGED_FROM = 0.3  # of the epochs

PROBLEMS = {
    "explode": "diverged",
    "relu": "dead_units",
    "vanish": "vanishing_gradient",
    "unstable": "lr_too_high",
    "not_converge": "lr_too_low",
}


def causes(run: Observations) -> list[str]:
    """Their one problem, in our name; nothing where they find none."""
    problem = find(run)
    return [PROBLEMS[problem]] if problem else []


def find(run: Observations) -> str:
    """Their problem in their name, empty for none: `IssueMonitor.determine`."""
    losses = np.concatenate([measured(run.curve(name))[1] for name in ("train_loss", "val_loss")])
    if breakdown(run) is not None or (losses >= HUGE_LOSS).any():
        return "explode"
    if run.epochs < JUDGED_FROM * run.max_epochs:
        return ""
    train, val = (measured(accuracy(run, part))[1] for part in ("train", "val"))
    if not len(val):
        return ""
    slow = _largest_rise(val) < DELTA and _largest_rise(train) < DELTA
    unsatisfied = val.max() < THETA or (len(train) > 0 and train.max() < THETA)
    if unsatisfied or slow:
        return _of_gradients(run) or ("not_converge" if slow else "")
    return "unstable" if _oscillates(val) else ""


def _of_gradients(run: Observations) -> str:
    if any(fmean(shares) >= GAMMA for shares in by_epoch(run, "dead")):
        return "relu"
    norms = [row for row in by_epoch(run, "gradient_norm") if row[-1] > 0]
    if any(row[0] / row[-1] > BETA_3 for row in norms):
        return "explode"
    return "vanish" if any(row[0] / row[-1] < BETA_1 and row[0] < BETA_2 for row in norms) else ""


def _largest_rise(values: Curve) -> float:
    return float(max(np.diff(values).max(initial=0.0), 0.0))


def _oscillates(values: Curve) -> bool:
    """Whether local maxima and minima, paired in order, are ZETA apart in ETA of the epochs: `ol_judge`."""
    before, here, after = values[:-2], values[1:-1], values[2:]
    tops, bottoms = here[(here >= before) & (here >= after)], here[(here <= before) & (here <= after)]
    pairs = min(len(tops), len(bottoms))
    high = tops[:pairs] - bottoms[:pairs] >= ZETA
    return int(high.sum()) >= ETA * len(values) if len(values) > 2 else False


def repairs(problem: str, run: Observations) -> list[Action]:
    """What they would try for a cause in our name, in their order ("balance"), as far as hyperparameters can say it.

    ELU takes the place of SELU, our standard initial weights that of a random initialiser; early stopping and noise on
    the inputs are left out. Empty for a cause that is not one of their problems.
    """
    rate = learning_rate(run)
    adam = Action("Use Adam with its defaults.", set={"optimizer": "adam", "lr": 1e-3})
    sgd = Action("Use SGD with momentum.", set={"optimizer": "momentum", "lr": 1e-2, "momentum": 0.9})
    relu = Action("Use ReLU with He initialisation.", set={"activation": "relu", "init": 1.0})
    elu = Action("Use SELU with LeCun initialisation.", set={"activation": "elu", "init": 1.0})
    norm = Action("Add batch normalisation.", set={"norm": "batch"})
    clip = Action("Clip gradients at 10.", set={"clip_norm": 10.0})
    tanh = Action("Use tanh with He initialisation.", set={"activation": "tanh", "init": 1.0})
    leaky = Action("Use leaky ReLU.", set={"activation": "leaky_relu"})
    init = Action("Initialise again.", set={"init": 1.0})
    plateau = Action("Decay the rate when validation stops improving.", set={"schedule": "plateau"})
    lower = [Action(f"Multiply the rate by {f:g}.", times={"lr": f}) for f in (0.1, 0.01, 0.001)]
    higher = [Action(f"Multiply the rate by {f:g}.", times={"lr": f}) for f in (10.0, 100.0, 1000.0)]
    batches = [Action(f"Multiply the batch by {f:g}.", times={"batch_size": f}) for f in (2.0, 4.0, 8.0)]
    weights = Action("Add an L2 penalty of 0.01.", set={"weight_decay": 0.01})
    dropout = Action("Add dropout of 0.25.", set={"dropout": 0.25})
    uses_adam = run.config.get("optimizer") == "adam"
    orders: dict[str, list[Action]] = {
        "vanishing_gradient": [elu, relu, norm],
        "diverged": [elu, relu, clip, tanh, norm],
        "dead_units": [elu, norm, init, leaky],
        "lr_too_high": [*([] if uses_adam else [adam]), *lower, plateau, *batches, sgd],
        "lr_too_low": [sgd if uses_adam else adam, *higher],
        "overfitting": [weights, dropout],
    }
    return [action for action in orders.get(problem, []) if rate > 0 or "lr" not in action.times]
