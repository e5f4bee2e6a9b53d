from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from rheostat.errors import TaskError
from rheostat.train.optimizers import learning_rate
from rheostat.train.rates import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    OneCycle,
    Piecewise,
    Polynomial,
    Rate,
    ReduceOnPlateau,
    StableDecay,
    StepDecay,
    Warmup,
    all_reads,
    from_config,
    reads,
)


def assert_rates(rate: Rate, expected: Callable[[int], float], steps: Sequence[int] = range(60)) -> None:
    for step in steps:
        assert rate(step) == pytest.approx(expected(step), rel=1e-12, abs=1e-15), step


def test_exponential_is_the_one_of_tensorflow() -> None:
    """tf.train.exponential_decay(0.1, step, 7, 0.96)."""
    assert_rates(Exponential(0.1, 0.96, 7), lambda t: 0.1 * 0.96 ** (t / 7))
    assert_rates(Exponential(0.1, 0.96, 7, staircase=True), lambda t: 0.1 * 0.96 ** (t // 7))
    documented = Exponential(0.1, 0.96, 100_000, staircase=True)
    assert [documented(t) for t in (0, 99_999, 100_000, 199_999, 200_000)] == pytest.approx(
        [0.1, 0.1, 0.096, 0.096, 0.09216], rel=1e-12
    )


def test_natural_exponential_decay_is_an_exponential() -> None:
    """tf.train.natural_exp_decay: lr · exp(-rate · t / steps)."""
    assert_rates(Exponential(0.1, math.exp(-0.5), 7), lambda t: 0.1 * math.exp(-0.5 * t / 7))


def test_inverse_time_is_the_one_of_tensorflow() -> None:
    assert_rates(InverseTime(0.1, 0.5, 7), lambda t: 0.1 / (1 + 0.5 * t / 7))
    assert_rates(InverseTime(0.1, 0.5, 7, staircase=True), lambda t: 0.1 / (1 + 0.5 * (t // 7)))


def test_polynomial_is_the_one_of_tensorflow() -> None:
    def tensorflow(t: int) -> float:
        t = min(t, 40)
        return (0.1 - 0.0001) * (1 - t / 40) ** 0.7 + 0.0001

    assert_rates(Polynomial(0.1, 40, end=0.0001, power=0.7), tensorflow)
    assert_rates(Polynomial(0.1, 40), lambda t: 0.1 * max(40 - t, 0) / 40)


def test_piecewise_is_the_one_of_tensorflow() -> None:
    """tf.train.piecewise_constant: values[0] for x <= boundaries[0]."""
    rate = Piecewise((10, 20), (1.0, 0.5, 0.1))
    assert_rates(rate, lambda t: 1.0 if t <= 10 else 0.5 if t <= 20 else 0.1)


def test_cosine() -> None:
    assert_rates(Cosine(0.1, 40, 0.01), lambda t: 0.055 + 0.045 * math.cos(math.pi * min(t, 40) / 40))


def test_stable_decay() -> None:
    """Hägele et al. 2024, equations 1 and 2, with N = 40 and 10 steps of cooldown."""
    assert_rates(StableDecay(0.1, 40, 10), lambda t: 0.1 * min(1.0, max(1 - (t - 30) / 10, 0)))
    assert_rates(
        StableDecay(0.1, 40, 10, shape="1-sqrt"),
        lambda t: 0.1 * (1 - math.sqrt(min(max(t - 30, 0), 10) / 10)),
    )
    assert_rates(StableDecay(0.1, 40, 0), lambda t: 0.1)


def test_step_decay_warmup_and_constant() -> None:
    assert_rates(StepDecay(0.1, 0.5, 7), lambda t: 0.1 * 0.5 ** (t // 7))
    assert_rates(Constant(0.1), lambda t: 0.1)
    inner = Exponential(0.1, 0.9, 3)
    assert_rates(Warmup(inner, 9), lambda t: 0.1 * (t + 1) / 10 if t < 9 else 0.1 * 0.9 ** ((t - 9) / 3))
    assert_rates(Warmup(inner, 0), inner)


def scheduled(make: Callable[[torch.optim.Optimizer], Any], steps: int, lr: float = 0.1) -> list[float]:
    """The rates of PyTorch's scheduler, update by update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    trace = []
    for _ in range(steps):
        trace.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return trace


PYTORCH: dict[str, tuple[Rate, Callable[[torch.optim.Optimizer], Any], int]] = {
    "exponential": (Exponential(0.1, 0.9, 1), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9), 40),
    "step": (StepDecay(0.1, 0.5, 7), lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.5), 40),
    "multi step": (
        Piecewise((9, 24), (0.1, 0.03, 0.009)),
        lambda o: lr_scheduler.MultiStepLR(o, [10, 25], gamma=0.3),
        40,
    ),
    "cosine": (
        Cosine(0.1, 30, 0.002),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=30, eta_min=0.002),
        31,
    ),
    "restarts": (
        Cosine(0.1, 30, 0.002, cycles=3),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=10, eta_min=0.002),
        30,
    ),
    "polynomial": (
        Polynomial(0.1, 30, power=2.0),
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=30, power=2.0),
        40,
    ),
    "linear": (
        Polynomial(0.1, 30, end=0.01),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=30),
        40,
    ),
    "warmup": (
        Warmup(Constant(0.1), 9),
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, end_factor=1.0, total_iters=9),
        20,
    ),
}


@pytest.mark.parametrize("name", PYTORCH)
def test_equals_the_scheduler_of_pytorch(name: str) -> None:
    rate, make, steps = PYTORCH[name]
    assert_rates(rate, scheduled(make, steps).__getitem__, range(steps))


@given(total=st.integers(2, 80), rise=st.floats(0, 0.99), div=st.floats(1.5, 50), final=st.floats(1.5, 1e5))
def test_one_cycle_equals_the_one_of_pytorch(total: int, rise: float, div: float, final: float) -> None:
    top = rise * total - 1
    if top <= 0:
        rise = 1.5 / total  # PyTorch divides by zero, or starts below the peak, without a rising step
    theirs = scheduled(
        lambda o: lr_scheduler.OneCycleLR(
            o, 0.1, total_steps=total, pct_start=rise, div_factor=div, final_div_factor=final
        ),
        total,
    )
    ours = OneCycle(0.1, total, 0.1 / div, 0.1 / div / final, rise)
    assert [ours(t) for t in range(total)] == pytest.approx(theirs, rel=1e-9, abs=1e-15)
    assert ours(total + 5) == ours(total - 1)


def test_one_cycle_without_a_rise_begins_at_its_peak() -> None:
    rate = OneCycle(0.1, 10, 0.01, 0.001, rise=0.0)
    assert rate(0) == 0.1
    assert rate(9) == pytest.approx(0.001)
    assert OneCycle(0.1, 1, 0.01, 0.001)(0) == 0.1


# Metrics around a plateau: small differences, ties, exact repeats, NaN and infinities.
VALUES = st.lists(
    st.floats(0.01, 2.0) | st.sampled_from([0.5, 0.5 * (1 - 1e-4), 0.49999, 0.4, 0.3, 0.2, math.nan, math.inf]),
    min_size=1,
    max_size=60,
)
SETTINGS: Any = {
    "factor": st.sampled_from([0.1, 0.5, 0.9]),
    "patience": st.integers(0, 4),
    "threshold": st.sampled_from([0.0, 1e-4, 0.1]),
    "cooldown": st.integers(0, 4),
}


def scales(plateau: ReduceOnPlateau, values: Sequence[float]) -> list[float]:
    trace = []
    for value in values:
        plateau.update(value)
        trace.append(plateau.scale)
    return trace


def pytorch_scales(values: Sequence[float], min_lr: float, **settings: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=min_lr, eps=0, **settings)
    trace = []
    for value in values:
        optimizer.step()
        scheduler.step(value)
        trace.append(float(optimizer.param_groups[0]["lr"]))
    return trace


def keras_scales(values: Sequence[float], min_lr: float, **settings: Any) -> list[float]:
    """The rule of keras.callbacks.ReduceLROnPlateau, mode "min", from its documentation."""
    lr, best, waited, rest, trace = 1.0, math.inf, 0, 0, []
    for value in values:
        if rest > 0:
            rest, waited = rest - 1, 0
        if value < best - settings["threshold"]:
            best, waited = value, 0
        elif rest == 0:
            waited += 1
            if waited >= settings["patience"] and lr > min_lr:
                lr = max(lr * settings["factor"], min_lr)
                rest, waited = settings["cooldown"], 0
        trace.append(lr)
    return trace


@given(values=VALUES, settings=st.fixed_dictionaries(SETTINGS), min_lr=st.sampled_from([0.0, 0.02]))
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_counts_as_pytorch(
    values: list[float], settings: dict[str, Any], min_lr: float, threshold_mode: Any
) -> None:
    theirs = pytorch_scales(values, min_lr, threshold_mode=threshold_mode, **settings)
    ours = ReduceOnPlateau(min_scale=min_lr, threshold_mode=threshold_mode, **settings)
    assert scales(ours, values) == theirs


@given(values=VALUES, settings=st.fixed_dictionaries(SETTINGS))
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_of_negated_values_is_the_maximising_one_of_pytorch(
    values: list[float], settings: dict[str, Any], threshold_mode: Any
) -> None:
    values = [value for value in values if value != math.inf]
    theirs = pytorch_scales(values, 0.0, mode="max", threshold_mode=threshold_mode, **settings)
    ours = ReduceOnPlateau(threshold_mode=threshold_mode, **settings)
    assert scales(ours, [-value for value in values]) == theirs


@given(values=VALUES, settings=st.fixed_dictionaries(SETTINGS), min_lr=st.sampled_from([0.0, 0.02]))
def test_plateau_counts_as_keras(values: list[float], settings: dict[str, Any], min_lr: float) -> None:
    theirs = keras_scales(values, min_lr, **settings)
    ours = ReduceOnPlateau(min_scale=min_lr, threshold_mode="abs", counting="keras", **settings)
    assert scales(ours, values) == theirs


def test_keras_reduces_one_value_before_pytorch() -> None:
    flat = [1.0] * 8
    assert scales(ReduceOnPlateau(0.5, patience=3), flat).index(0.5) == 4
    assert scales(ReduceOnPlateau(0.5, patience=3, counting="keras"), flat).index(0.5) == 3


@given(values=VALUES, cut=st.integers(0, 60), counting=st.sampled_from(["torch", "keras"]))
def test_plateau_continues_from_its_state(values: list[float], cut: int, counting: Any) -> None:
    def new() -> ReduceOnPlateau:
        return ReduceOnPlateau(0.5, patience=2, cooldown=3, counting=counting)

    first, second = new(), new()
    through = scales(new(), values)
    begun = scales(first, values[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + scales(second, values[cut:]) == through


# From a configuration.


def config_strategy(schedule: str) -> st.SearchStrategy[dict[str, Any]]:
    share = st.floats(0, 1)
    values: dict[str, st.SearchStrategy[Any]] = {
        "lr": st.floats(1e-6, 1),
        "warmup": share,
        "decay_rate": st.floats(0.01, 1),
        "decay_every": st.integers(1, 20) | st.floats(0.1, 20),
        "staircase": st.booleans(),
        "final_lr_fraction": share,
        "power": st.floats(0.1, 5),
        "cycles": st.just(1),
        "initial_lr_fraction": share,
        "cooldown": share,
        "cooldown_shape": st.sampled_from(["linear", "1-sqrt"]),
    }
    known = {name: values[name] for name in sorted(reads(schedule) & set(values))}
    always: dict[str, st.SearchStrategy[Any]] = {"schedule": st.just(schedule)}
    if schedule == "piecewise":
        always |= {"boundaries": st.just("2, 4.5"), "lr_fractions": st.just("1, 0.3,0.02")}
    return st.fixed_dictionaries(always, optional=known)


CONFIGS = st.sampled_from(list(SCHEDULES)).flatmap(config_strategy)


@given(config=CONFIGS, steps_per_epoch=st.integers(1, 20), epochs=st.integers(1, 12))
def test_any_rate_rises_to_its_peak_and_falls(config: dict[str, Any], steps_per_epoch: int, epochs: int) -> None:
    total = steps_per_epoch * epochs
    rate, plateau = from_config(config, steps_per_epoch, total)
    lr = learning_rate(config)
    trace = [rate(step) for step in range(total + 3)]
    assert (plateau is not None) == (config["schedule"] == "plateau")
    assert all(0 <= value <= lr * (1 + 1e-12) for value in trace)
    top = round(config.get("warmup", 0.0) * total)
    if config["schedule"] == "one_cycle":
        top = math.floor(max(config.get("warmup", 0.3) * total - 1, 0))
    else:
        assert trace[top] == lr
    pairs = list(pairwise(trace))
    assert all(a <= b * (1 + 1e-12) for a, b in pairs[:top])
    assert all(b <= a * (1 + 1e-12) for a, b in pairs[top + 1 :])


@given(
    schedule=st.sampled_from(["linear", "polynomial", "cosine", "one_cycle", "wsd"]),
    fraction=st.floats(0, 1),
    warmup=st.floats(0, 0.7),
    beyond=st.integers(0, 99),
)
def test_ends_at_the_final_fraction_and_stays(schedule: str, fraction: float, warmup: float, beyond: int) -> None:
    config = {"lr": 0.3, "schedule": schedule, "final_lr_fraction": fraction, "warmup": warmup}
    rate, _ = from_config(config, 4, 20)
    assert rate(20 + beyond) == pytest.approx(0.3 * fraction, rel=1e-12, abs=1e-15)


@given(config=CONFIGS, cut=st.integers(0, 50))
def test_continuing_equals_running_through(config: dict[str, Any], cut: int) -> None:
    """A new rate, as another process makes it, whatever was asked of the first."""
    through = [from_config(config, 5, 50)[0](step) for step in range(50)]
    first, second = from_config(config, 5, 50)[0], from_config(config, 5, 50)[0]
    assert [first(step) for step in range(cut)] + [second(step) for step in range(cut, 50)] == through
    assert first == second


def trace(config: dict[str, Any], steps_per_epoch: int, epochs: int) -> list[float]:
    total = steps_per_epoch * epochs
    rate, _ = from_config({"lr": 1.0, **config}, steps_per_epoch, total)
    return [rate(step) for step in range(total)]


def test_without_a_schedule_the_rate_is_constant() -> None:
    assert trace({}, 2, 3) == [1.0] * 6
    assert from_config({}, 2, 6) == (Constant(1e-3), None)
    assert from_config({"optimizer": "adadelta", "schedule": None}, 2, 6) == (Constant(1.0), None)


def test_epochs_are_turned_into_steps() -> None:
    step = {"schedule": "step", "decay_rate": 0.5, "decay_every": 2}
    assert trace(step, 3, 5) == [1.0] * 6 + [0.5] * 6 + [0.25] * 3
    by_thirds = trace({"schedule": "step"}, 4, 6)
    assert by_thirds == pytest.approx([1.0] * 8 + [0.1] * 8 + [0.01] * 8)
    smooth = trace({"schedule": "exponential", "decay_rate": 0.5, "decay_every": 2}, 4, 5)
    assert smooth[8] == 0.5
    assert smooth[4] == pytest.approx(math.sqrt(0.5))
    assert trace({"schedule": "exponential", "staircase": True}, 2, 2) == [1.0, 1.0, 0.96, 0.96]
    inverse = trace({"schedule": "inverse_time", "decay_rate": 1.0, "decay_every": 2}, 4, 5)
    assert inverse[8] == 0.5


def test_piecewise_changes_at_the_first_step_of_an_epoch() -> None:
    config = {"schedule": "piecewise", "boundaries": "1, 2.5", "lr_fractions": "1, 0.5, 0.1"}
    assert trace(config, 4, 4) == [1.0] * 4 + [0.5] * 6 + [0.1] * 6
    assert trace({**config, "boundaries": 2, "lr_fractions": "0.5,0"}, 2, 3) == [0.5] * 4 + [0.0] * 2


def test_schedules_are_laid_out_over_the_steps_after_the_warmup() -> None:
    linear = trace({"schedule": "linear", "warmup": 0.2}, 1, 10)
    assert linear == pytest.approx([1 / 3, 2 / 3, *(1 - t / 8 for t in range(8))])
    wsd = trace({"schedule": "wsd", "warmup": 0.2, "cooldown": 0.4}, 1, 10)
    assert wsd == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    full = trace({"schedule": "wsd", "warmup": 0.8, "cooldown": 0.4}, 1, 10)
    assert full == pytest.approx([*((t + 1) / 9 for t in range(9)), 0.5])
    cosine = trace({"schedule": "cosine", "cycles": 2, "final_lr_fraction": 0.5}, 1, 4)
    assert cosine == pytest.approx([1.0, 0.75, 1.0, 0.75])


def test_one_cycle_rises_during_its_warmup() -> None:
    config = {"schedule": "one_cycle", "warmup": 0.5, "initial_lr_fraction": 0.2, "final_lr_fraction": 0.1}
    cycle = trace(config, 2, 5)
    assert (cycle[0], cycle[4], cycle[9]) == pytest.approx((0.2, 1.0, 0.1))
    usual = scheduled(lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=20), 20)
    assert trace({"schedule": "one_cycle"}, 4, 5) == pytest.approx(usual)


def test_plateau_is_set_up_from_the_configuration() -> None:
    rate, plateau = from_config({"schedule": "plateau", "lr": 0.1, "warmup": 0.5}, 2, 4)
    assert rate == Warmup(Constant(0.1), 2)
    assert plateau == ReduceOnPlateau()
    _, plateau = from_config({"schedule": "plateau", "plateau_counting": "keras"}, 2, 4)
    assert plateau == ReduceOnPlateau(counting="keras", threshold_mode="abs")
    given_all = {
        "plateau_factor": 0.5,
        "plateau_patience": 3,
        "plateau_threshold": 0.01,
        "plateau_threshold_mode": "abs",
        "plateau_cooldown": 2,
        "final_lr_fraction": 0.1,
    }
    _, plateau = from_config({"schedule": "plateau", **given_all}, 2, 4)
    assert plateau == ReduceOnPlateau(0.5, 3, 0.01, "abs", 2, 0.1)


class Recorder(Mapping[str, Any]):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_, self.asked = values, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self.values_[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("everything was read")

    def __len__(self) -> int:
        return len(self.values_)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reads_what_it_says(schedule: str) -> None:
    recorder = Recorder({"schedule": schedule, "boundaries": "1", "lr_fractions": "1, 0.5"})
    from_config(recorder, 2, 8)
    assert recorder.asked == reads(schedule) | {"schedule", "optimizer"}
    assert reads(schedule) <= all_reads()
    assert "patience" not in reads(schedule)  # means early stopping


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "piecewise"])
def test_works_for_a_single_step(schedule: str) -> None:
    rate, _ = from_config({"schedule": schedule, "lr": 0.1, "warmup": 1.0}, 1, 1)
    assert 0 < rate(0) <= 0.1


@pytest.mark.parametrize(
    ("schedule", "name", "value", "words"),
    [
        ("cosine", "lr", 0, "greater than 0"),
        ("cosine", "warmup", 1.5, "from 0 to 1"),
        ("one_cycle", "warmup", -0.1, "from 0 to 1"),
        ("cosine", "warmup", math.nan, "finite"),
        ("cosine", "final_lr_fraction", 2, "from 0 to 1"),
        ("cosine", "cycles", 0, "whole number from 1"),
        ("cosine", "cycles", 1.5, "whole number"),
        ("step", "decay_rate", 0, "greater than 0"),
        ("exponential", "decay_rate", 1.1, "at most 1"),
        ("inverse_time", "decay_rate", -1, "at least 0"),
        ("step", "decay_every", 0, "greater than 0"),
        ("exponential", "staircase", 1, "true or false"),
        ("polynomial", "power", 0, "greater than 0"),
        ("wsd", "cooldown", 1.01, "from 0 to 1"),
        ("wsd", "cooldown_shape", "lineer", "Did you mean 'linear'"),
        ("one_cycle", "initial_lr_fraction", "x", "from 0 to 1"),
        ("plateau", "plateau_factor", 1.0, "less than 1"),
        ("plateau", "plateau_patience", -1, "whole number from 0"),
        ("plateau", "plateau_patience", True, "whole number"),
        ("plateau", "plateau_threshold", 1.0, "less than 1"),
        ("plateau", "plateau_threshold_mode", "relative", "rel, abs"),
        ("plateau", "plateau_counting", "tf", "torch, keras"),
        ("piecewise", "boundaries", None, "boundaries="),
        ("piecewise", "boundaries", "3, x", "boundaries="),
        ("piecewise", "boundaries", "3, 2", "must rise"),
        ("piecewise", "boundaries", "nan, 2", "finite"),
        ("piecewise", "lr_fractions", "1, 0.1", "one fraction more"),
        ("piecewise", "lr_fractions", "1, 2, 3", "from 0 to 1"),
        ("piecewise", "lr_fractions", True, "lr_fractions="),
    ],
)
def test_a_bad_value_says_what_is_allowed(schedule: str, name: str, value: object, words: str) -> None:
    config = {"boundaries": "1, 2", "lr_fractions": "1, 0.5, 0.1", "schedule": schedule, name: value}
    with pytest.raises(TaskError) as caught:
        from_config(config, 2, 8)
    message = str(caught.value)
    assert name in message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("schedule", ["cosin", 3])
def test_an_unknown_schedule_is_named_with_the_known_ones(schedule: object) -> None:
    with pytest.raises(TaskError, match="one_cycle") as caught:
        from_config({"schedule": schedule}, 2, 8)
    assert repr(schedule) in str(caught.value)
    with pytest.raises(TaskError):
        reads("cosin")
