"""A run in numbers that do not depend on its task: what the classifier looks at.

Losses are compared with each other, with that of the untrained network, or with `prior_loss`; epochs with their
number. What was not measured is NaN. Names that begin with `inside_` need the observations of layers, `config_` the
hyperparameters, and `probe_` counterfactuals; the rest comes from curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rheostat.diagnose import shapes
from rheostat.diagnose.base import Curve, Observations
from rheostat.types import Status

# Rates at which optimisers usually train well, rules of thumb: rates are compared with them alone.
USUAL_LR = {"sgd": 0.1, "momentum": 0.03, "nesterov": 0.03, "adagrad": 0.03}
USUAL_ADAPTIVE_LR = 0.003
FIRST = 8  # steps
CLIPPED, NOT_CLIPPED = 1.5, -9.0
PROBES = tuple(
    f"probe_{arm}{of}"
    for arm in ("same", "lr_up", "lr_down", "cooldown", "no_regularisation", "larger", "other_seed")
    for of in ("", "_last", "_train")
)


def features(run: Observations, probe: Mapping[str, float] | None = None) -> dict[str, float]:
    """The numbers of one run, in a fixed order of names."""
    found = {**_losses(run), **_scores(run), **_rate(run), **_inside(run), **_config(run)}
    effects = probe or {}
    return found | {name: effects.get(name, math.nan) for name in PROBES}


def _losses(run: Observations) -> dict[str, float]:
    train, val, prior = run.curve("train_loss"), run.curve("val_loss"), run.facts.get("prior_loss", math.nan)
    start = run.first.get(0, math.nan)
    early = [loss for step, loss in run.first.items() if 0 < step <= FIRST]
    reference = start if not math.isnan(start) else shapes.first(train)
    peak = run.curve("batch_loss_max")
    at_best = max(shapes.best_epoch(val) - 1, 0)
    train_at_best = float(train[at_best]) if at_best < len(train) else math.nan
    epochs = max(run.epochs, 1)
    return {
        "infeasible": float(run.status is Status.INFEASIBLE),
        "epochs": math.log2(epochs),
        "progress": run.epochs / run.max_epochs if run.max_epochs else math.nan,
        "start": _log(start, prior),
        "early_peak": _log(max(early, default=math.nan), start),
        "early_last": _log(early[-1] if early else math.nan, start),
        "train_first": _log(shapes.first(train), reference),
        "train_last": _log(shapes.last(train), prior),
        "train_fall": _log(shapes.last(train), reference),
        "val_first": _log(shapes.first(val), prior),
        "val_best": _log(shapes.lowest(val), prior),
        "val_fall": _log(shapes.lowest(val), reference),
        "val_rise": shapes.rise_after_best(val),
        "val_worst": _log(float(np.nanmax(val)) if _any(val) else math.nan, prior),
        "gap_last": _log(shapes.last(val), shapes.last(train)),
        "gap_best": _log(shapes.lowest(val), train_at_best),
        "train_rises": shapes.rises(train),
        "val_rises": shapes.rises(val),
        "train_highest_rise": shapes.highest_rise(train),
        "val_highest_rise": shapes.highest_rise(val),
        "train_monotone": shapes.monotone(train),
        "val_monotone": shapes.monotone(val),
        "val_best_at": shapes.best_epoch(val) / epochs,
        "train_best_at": shapes.best_epoch(train) / epochs,
        "train_last_fall": shapes.last_fall(train),
        "val_last_fall": shapes.last_fall(val),
        "train_half_fall": shapes.last_fall(train, 0.5),
        "val_half_fall": shapes.last_fall(val, 0.5),
        "train_noise": shapes.noise(train),
        "val_noise": shapes.noise(val),
        "curvature": shapes.ratio(shapes.last_fall(train, 0.5), shapes.total_fall(train, reference)),
        "batch_peak": _log(float(np.nanmax(peak)) if _any(peak) else math.nan, reference),
        "batch_sd": shapes.ratio(shapes.last(run.curve("batch_loss_sd")), shapes.last(train)),
        "batch_sd_first": shapes.ratio(shapes.first(run.curve("batch_loss_sd")), shapes.first(train)),
        "batch_autocorrelation": _mean(run.curve("batch_loss_autocorrelation")[run.epochs // 2 :]),
        "batch_autocorrelation_first": shapes.first(run.curve("batch_loss_autocorrelation")),
        "probe_to_train": _log(shapes.last(run.curve("probe_loss")), shapes.last(train)),
        "probe_to_val": _log(shapes.last(run.curve("probe_loss")), shapes.last(val)),
    }


def _scores(run: Observations) -> dict[str, float]:
    """Of classes and inputs. Shares of errors are relative to that of guessing."""
    classes = run.facts.get("classes", math.nan)
    chance = 1 - 1 / classes if classes > 1 else math.nan
    error, probe = run.curve("val_error"), run.curve("probe_error")
    if not _any(error):
        error, probe = 1 - run.curve("val_accuracy"), 1 - run.curve("probe_accuracy")
    return {
        "error_best": shapes.ratio(shapes.lowest(error), chance),
        "error_last": shapes.ratio(shapes.last(error), chance),
        "error_rise": shapes.rise_after_best(error),
        "error_half_fall": shapes.last_fall(error, 0.5),
        "probe_error": shapes.ratio(shapes.last(probe), chance),
        "error_gap": shapes.ratio(shapes.last(error) - shapes.last(probe), chance),
        "predicted": shapes.ratio(shapes.last(run.curve("probe_predicted")), classes),
        "confidence": shapes.last(run.curve("probe_confidence")),
        "wrong_confidence": shapes.last(run.curve("probe_wrong_confidence")),
        # What would be decisive says nothing where it was not measured.
        "sums_to_one": _or(shapes.first(run.curve("probe_sums_to_one")), 0.0),
        "batch_classes": _or(shapes.first(run.curve("batch_classes")), 1.0),
        **{name: run.facts.get(name, math.nan) for name in ("input_scale", "input_spread", "input_offset")},
    }


def _rate(run: Observations) -> dict[str, float]:
    """How the learning rate went, and how far training had come when it fell."""
    lr, train = run.curve("lr"), run.curve("train_loss")
    epochs, values = shapes.measured(lr)
    peak = float(values.max()) if len(values) else math.nan
    low = (values < 0.05 * peak) if len(values) else np.zeros(0, bool)
    fell = int(epochs[low.argmax()]) if low.any() else 0
    start = run.first.get(0, shapes.first(train))
    before = train[:fell] if fell else train
    return {
        "lr_last": _log(float(values[-1]) if len(values) else math.nan, peak),
        "lr_low_share": float(low.mean()) if len(values) else math.nan,
        "lr_fell_at": fell / max(run.epochs, 1) if fell else 1.0,
        "fall_before_lr": shapes.last_fall(before, 0.5) if fell > 1 else math.nan,
        "fall_after_lr": shapes.total_fall(train[fell:], start) if 0 < fell < len(train) else math.nan,
        "lr_constant": float(bool(len(values)) and float(values.min()) > 0.99 * peak),
    }


def _inside(run: Observations) -> dict[str, float]:
    found: dict[str, float] = {}
    for measure in ("dead", "saturated"):
        curves = list(run.layers.get(measure, {}).values())
        firsts, lasts = [shapes.first(c) for c in curves], [shapes.last(c) for c in curves]
        found |= {
            f"inside_{measure}_first": max(firsts, default=math.nan),
            f"inside_{measure}_last": max(lasts, default=math.nan),
            f"inside_{measure}_mean": float(np.mean(lasts)) if lasts else math.nan,
        }
    gradients = [shapes.first(c) for c in run.layers.get("gradient_norm", {}).values()]
    last_gradients = [shapes.last(c) for c in run.layers.get("gradient_norm", {}).values()]
    updates = [shapes.first(c) for c in run.layers.get("update_ratio", {}).values()]
    last_updates = [shapes.last(c) for c in run.layers.get("update_ratio", {}).values()]
    middle = float(np.median(updates)) if updates else math.nan
    norms = run.curve("grad_norm")
    clip = dict(run.config).get("clip_norm")
    return found | {
        "inside_gradient_spread": _log(gradients[0], gradients[-1]) if gradients else math.nan,
        "inside_gradient_spread_last": _log(last_gradients[0], last_gradients[-1]) if last_gradients else math.nan,
        "inside_gradient_least": _log(min(gradients), max(gradients)) if gradients else math.nan,
        "inside_update": _log(middle, 1.0),
        "inside_update_last": _log(float(np.median(last_updates)) if updates else math.nan, 1.0),
        "inside_update_first_layer": _log(updates[0], middle) if updates else math.nan,
        "inside_update_least": _log(min(updates), middle) if updates else math.nan,
        "inside_update_most": _log(max(updates), 1.0) if updates else math.nan,
        "inside_frozen": float(sum(u == 0 for u in updates)),
        "inside_gradient": _log(shapes.first(norms), 1.0),
        "inside_gradient_last": _log(shapes.last(norms), shapes.first(norms)),
        "inside_clipped": _clipped(_median(norms), clip),
    }


def _clipped(norm: float, clip: object) -> float:
    """By how much clipping shortens the usual update, as a logarithm; NOT_CLIPPED where it hardly does."""
    shortened = _log(norm, float(clip)) if isinstance(clip, int | float) and not isinstance(clip, bool) else math.nan
    return shortened if shortened > CLIPPED else NOT_CLIPPED


def _config(run: Observations) -> dict[str, float]:
    config = dict(run.config)  # a Config would look for the name that was meant, which takes its time
    optimizer = str(config.get("optimizer", ""))
    if optimizer == "sgd" and config.get("momentum"):
        optimizer = "momentum"
    lr, batch = _number(config.get("lr")), _number(config.get("batch_size"))
    examples = run.facts.get("examples", math.nan)
    steps = run.facts.get("steps_per_epoch", math.nan)
    return {
        "config_lr": _log(lr, USUAL_LR.get(optimizer, USUAL_ADAPTIVE_LR)),
        "config_adaptive": float(optimizer not in USUAL_LR or optimizer == "adagrad") if optimizer else math.nan,
        "config_batch": _log(batch, examples),
        "config_steps": _log(steps * max(run.max_epochs, run.epochs), 1.0),
        "config_steps_per_epoch": _log(steps, 1.0),
        "config_dropout": _number(config.get("dropout", 0.0)) if len(config) else math.nan,
        "config_weight_decay": _log(_number(config.get("weight_decay", 0.0)) + 1e-6, 1.0) if len(config) else math.nan,
    }


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _log(value: float, other: float) -> float:
    """The logarithm of a ratio, at most 12 to either side; NaN where one of them is no positive number."""
    if math.isnan(value) or not 0 < other < math.inf or value < 0:
        return math.nan
    return min(max(math.log(max(value, 1e-30) / other), -12.0), 12.0) if value < math.inf else 12.0


def _any(curve: Curve) -> bool:
    return bool((~np.isnan(curve)).any())


def _mean(curve: Curve) -> float:
    _, values = shapes.measured(curve)
    return float(values.mean()) if len(values) else math.nan


def _median(curve: Curve) -> float:
    _, values = shapes.measured(curve)
    return float(np.median(values)) if len(values) else math.nan
