"""Each detector speaks on its sickness, keeps still on sound runs, and bears anything."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.diagnose.base import Curve, Observations
from rheostat.diagnose.catalogue import LEARNT, PATHOLOGIES
from rheostat.diagnose.pathologies.double_softmax import floor
from rheostat.diagnose.wording import PROBES
from rheostat.probe.counterfactual import ARMS
from rheostat.types import Config, Status

EPOCHS = 20
T = np.arange(1.0, EPOCHS + 1)
FACTS = {"classes": 10.0, "prior_loss": math.log(10), "examples": 2000.0, "validation_examples": 500.0}
CONFIG = Config(lr=0.01, batch_size=32, units=64, layers=2, dropout=0.1, weight_decay=0.01, schedule="cosine")
LEARNT_NAMES = {  # as the controlled runs are labelled
    *("lr_too_low", "lr_too_high", "diverged", "needs_decay", "decay_too_early", "too_short", "clipped_too_hard"),
    *("dead_units", "saturated_units", "vanishing_gradient", "bad_initialisation", "frozen_layer", "input_scale"),
    *("label_noise", "not_shuffled", "double_softmax", "too_small", "over_regularised", "overfitting"),
    "batch_too_large",
}


def flat(value: float) -> Curve:
    return np.full(EPOCHS, value)


def healthy(
    speed: float = 2.0, level: float = 0.05, gap: float = 0.1, jitter: float = 0.0, seed: int = 0
) -> Observations:
    """A sound run of 20 epochs: an exponential fall to a level, with noise, under a cosine."""
    noise = np.random.default_rng(seed).normal(1, jitter, (3, EPOCHS)).clip(0.9, 1.1)
    train = (2.2 * np.exp(-T / speed) + level) * noise[0]
    val = (2.2 * np.exp(-T / speed) + level + gap) * noise[1]
    error = (0.85 * np.exp(-T / speed) + (level + gap) / 5) * noise[2]
    return Observations(
        {
            "train_loss": train,
            "val_loss": val,
            "val_error": error,
            "probe_loss": train,
            "probe_error": 0.9 * error,
            "probe_predicted": flat(10.0),
            "lr": 0.01 * (1 + np.cos(np.pi * T / EPOCHS)) / 2,
            "grad_norm": flat(1.0),
            "batch_loss_max": 1.5 * train + 0.1,
            "batch_loss_sd": 0.2 * train,
            "batch_loss_autocorrelation": flat(0.05),
        },
        first={0: 2.31, 1: 2.28, 2: 2.25, 4: 2.1, 8: 1.9},
        layers={
            "update_ratio": {"a": flat(2e-3), "b": flat(3e-3), "c": flat(2e-3)},
            "gradient_norm": {"a": flat(0.5), "b": flat(0.4), "c": flat(0.8)},
            "dead": {"a": flat(0.05), "b": flat(0.1)},
            "saturated": {"a": flat(0.05), "b": 0.03 * T},
        },
        config=CONFIG,
        max_epochs=EPOCHS,
        facts={**FACTS, "steps_per_epoch": 63.0},
    )


def sick(
    curves: Mapping[str, Curve] | None = None,
    first: Mapping[int, float] | None = None,
    config: Mapping[str, object] | None = None,
    layers: Mapping[str, Mapping[str, Curve]] | None = None,
    **changes: object,
) -> Observations:
    """The healthy run, changed."""
    run = healthy()
    return replace(
        run,
        curves={**run.curves, **(curves or {})},
        first={**run.first, **(first or {})},
        config=Config({**run.config, **(config or {})}),
        layers={**run.layers, **(layers or {})},
        **changes,
    )


SLOW = 2.3 - 0.01 * T
SOFT = floor(10)
RUNS: dict[str, Observations] = {
    "lr_too_high": sick({"train_loss": np.where(T % 2 == 0, 1.2, 1.6)}, {2: 7.0}),
    "lr_too_low": sick({"train_loss": SLOW, "val_loss": SLOW + 0.01}, layers={"update_ratio": {"a": flat(1e-5)}}),
    "diverged": sick({"train_loss": np.where(T < 5, 2.0, np.inf)}),
    "dead_units": sick(layers={"dead": {"a": flat(0.1), "b": np.where(T < 4, 0.1, 0.8)}}),
    "vanishing_gradient": sick(layers={"gradient_norm": {"a": flat(1e-5), "b": flat(1e-3), "c": flat(0.1)}}),
    "bad_initialisation": sick(first={0: 41.0}),
    "saturated_units": sick(layers={"saturated": {"a": flat(0.9)}}),
    "label_noise": sick({"probe_error": flat(0.3), "val_error": flat(0.1)}),
    "too_short": sick({"val_loss": 2.3 * 0.9**T}),
    "too_small": sick({"train_loss": 0.9 + np.exp(-T), "val_loss": 0.95 + np.exp(-T)}),
    "over_regularised": sick({"train_loss": 1 + np.exp(-T), "val_loss": 1 + np.exp(-T)}, config={"dropout": 0.8}),
    "not_shuffled": sick({"batch_loss_autocorrelation": flat(0.8), "batch_loss_sd": flat(1.0)}),
    "overfitting": sick({"val_loss": 0.5 + (T - 6) ** 2 / 200}),
    "needs_decay": sick({"train_loss": 0.5 + 0.05 * (-1) ** T, "lr": flat(0.01)}),
    "decay_too_early": sick({"lr": np.where(T < 6, 0.1, 1e-4), "train_loss": np.maximum(2.0 * 0.8**T, 2.0 * 0.8**6)}),
    "input_scale": sick(layers={"gradient_norm": {"a": flat(90.0), "b": flat(1.0), "c": flat(1.0)}}),
    "batch_too_large": sick(facts={**FACTS, "steps_per_epoch": 2.0}),
    "clipped_too_hard": sick({"clipped": flat(0.97)}, config={"clip_norm": 0.1}),
    "frozen_layer": sick(layers={"update_ratio": {"a": flat(0.0), "b": flat(1e-3)}}),
    "double_softmax": sick(
        {"train_loss": SOFT + np.exp(-T), "val_loss": SOFT + 0.03 + np.exp(-T), "val_error": flat(0.03)}
    ),
    "non_finite_input": sick(first={0: math.nan}),
    "out_of_memory": sick(status=Status.INFEASIBLE, reason="out of memory at step 3"),
    "wrong_head": sick({"train_loss": 1.0 - 0.1 * T}),
    "leak": sick({"probe_loss": flat(1.0), "probe_error": flat(0.4), "val_error": flat(0.1), "val_loss": flat(0.4)}),
    "early_instability": sick(first={4: 31.0}),
    "spikes": sick({"train_loss": healthy().curves["train_loss"] + np.where(T == 9, 1.5, 0.0)}),
    "rising_loss": sick({"train_loss": np.where(T < 10, 2.0 - 0.15 * T, 0.05 + 0.06 * T)}),
    "batch_too_small": sick(
        {"train_loss": 0.5 + 0.05 * (-1) ** T, "batch_loss_sd": flat(0.4)}, config={"batch_size": 2}
    ),
    "not_learning": sick({"train_loss": flat(2.301), "val_loss": flat(2.304)}),
    "class_collapse": sick({"probe_predicted": flat(2.0), "probe_error": flat(0.8)}),
    "metric_mismatch": sick({"val_loss": 0.3 + 0.03 * T, "val_error": 0.3 - 0.01 * T}),
}


def test_the_catalogue_is_complete_and_names_only_what_it_knows() -> None:
    assert set(LEARNT) == LEARNT_NAMES
    assert set(RUNS) == set(PATHOLOGIES)
    for name, pathology in PATHOLOGIES.items():
        assert pathology.name == name
        assert pathology.title and pathology.words.endswith(".") and pathology.sources and pathology.detect.__doc__
        assert {*pathology.confused_with, *pathology.leads_to} <= set(PATHOLOGIES) - {name}
        assert not pathology.probe or pathology.probe in PROBES
        assert 0 < pathology.certainty <= 1


def test_probes_are_arms_that_can_be_run() -> None:
    assert set(PROBES) <= set(ARMS)


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_a_detector_speaks_on_its_sickness_and_not_on_the_sound_run_that_it_was_made_from(name: str) -> None:
    assert not PATHOLOGIES[name].detect(healthy())
    symptoms = PATHOLOGIES[name].detect(RUNS[name])
    assert symptoms
    for symptom in symptoms:
        assert symptom.text[0].isupper() or symptom.text[0].isdigit() or symptom.text.startswith("a ")
        assert symptom.text.endswith(".")
        assert 0 <= symptom.since <= EPOCHS
        assert all(len(digits.strip("0.").replace(".", "")) <= 4 for digits in re.findall(r"[\d.]+", symptom.text))


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_a_remedy_is_a_sentence_and_changes_only_what_there_is_or_the_trainer_reads(name: str) -> None:
    action = PATHOLOGIES[name].remedy(RUNS[name])
    assert action.text[0].isupper() and action.text.endswith(".")
    changed = action.apply(CONFIG)
    assert set(action.times) <= {*CONFIG, "clip_norm", "accumulate", "hidden", "channels", "patience", "epochs"}
    if action.automatic and (set(action.times) & set(CONFIG) or action.set):
        assert changed != CONFIG


@given(
    speed=st.floats(0.5, 4.0),
    level=st.floats(0.001, 0.15),
    gap=st.floats(0.0, 0.3),
    jitter=st.floats(0.0, 0.05),
    seed=st.integers(0, 2**32 - 1),
)
def test_rules_without_the_classifier_keep_still_on_sound_runs(
    speed: float, level: float, gap: float, jitter: float, seed: int
) -> None:
    run = healthy(speed, level, gap, jitter, seed)
    for pathology in PATHOLOGIES.values():
        if not pathology.learnt:
            assert not pathology.detect(run), pathology.name
            assert not pathology.detect(run.until(5)), pathology.name


NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.floats(-3, 3), st.sampled_from([0.0, 1e300, -1e300, 1e-300])
)
NAMES = (*healthy().curves, "clipped")


@st.composite
def anything(draw: Callable[..., object]) -> Observations:
    """Any observations: curves of any values, some missing, down to none and to one epoch."""
    epochs = draw(st.integers(0, 12))
    curve = st.lists(NUMBERS, min_size=epochs, max_size=epochs).map(lambda values: np.array(values, dtype=np.float64))
    layers = st.dictionaries(st.sampled_from("abc"), curve, max_size=3)
    return Observations(
        draw(st.dictionaries(st.sampled_from(NAMES), curve, max_size=8)),
        draw(st.dictionaries(st.sampled_from((0, 1, 2, 4, 8)), NUMBERS)),
        draw(st.dictionaries(st.sampled_from(("update_ratio", "gradient_norm", "dead", "saturated")), layers)),
        Config(draw(st.dictionaries(st.sampled_from([*CONFIG, "clip_norm", "patience"]), st.floats(0, 1e3)))),
        draw(st.sampled_from(list(Status))),
        draw(st.sampled_from(["", "training loss nan at step 1", "out of memory at step 2", "ValueError: no"])),
        draw(st.integers(0, 20)),
        draw(st.dictionaries(st.sampled_from([*FACTS, "steps_per_epoch"]), NUMBERS)),
    )


@given(anything())
def test_nothing_raises_on_arbitrary_observations(run: Observations) -> None:
    for pathology in PATHOLOGIES.values():
        for symptom in pathology.detect(run):
            assert symptom.since >= 0 and "nan" not in symptom.text.replace("loss nan at", "")
        assert pathology.remedy(run).text


def test_a_loop_that_reports_its_validation_loss_alone_is_diagnosed() -> None:
    bouncing = Observations(
        {"val_loss": np.array([1.0, 0.7, 0.9, 0.6, 0.8, 0.5, 0.7, 0.4])}, config=Config(learning_rate=0.3)
    )
    assert PATHOLOGIES["lr_too_high"].detect(bouncing)
    assert PATHOLOGIES["lr_too_high"].remedy(bouncing).apply(bouncing.config).learning_rate < 0.3
    rising = Observations({"val_loss": np.array([1.0, 0.5, 0.4, 0.5, 0.6, 0.7])})
    assert "epoch 3" in PATHOLOGIES["overfitting"].detect(rising)[0].text


def test_what_a_double_softmax_costs_at_least_is_what_the_loss_gives_for_the_surest_right_answer() -> None:
    sure = np.eye(7)[0]
    assert floor(7) == pytest.approx(-math.log(np.exp(sure)[0] / np.exp(sure).sum()))
    assert floor(7) + 1 == pytest.approx(-math.log(np.exp(sure)[1] / np.exp(sure).sum()))


def test_memory_that_ran_out_is_no_divergence() -> None:
    assert not PATHOLOGIES["diverged"].detect(RUNS["out_of_memory"])
    assert not PATHOLOGIES["diverged"].detect(RUNS["non_finite_input"])


def test_the_advice_is_stronger_where_the_rate_is_further_away() -> None:
    remedy = PATHOLOGIES["lr_too_low"].remedy
    sizes = (2e-2, 2e-3, 2e-5)  # of updates; where they are known, they say how far it is
    by_updates = [remedy(sick(layers={"update_ratio": {"a": flat(size)}})).times["lr"] for size in sizes]
    assert by_updates == [3, 10, 300]
    curves = ({"train_loss": 2.3 - slope * T} for slope in (0.1, 0.03, 0.02, 0.001))
    by_curve = [remedy(sick(curve, layers={"update_ratio": {}})).times["lr"] for curve in curves]
    assert by_curve == [3, 10, 30, 100]
    hard = PATHOLOGIES["lr_too_high"].remedy(RUNS["lr_too_high"])
    assert hard.times["lr"] < PATHOLOGIES["lr_too_high"].remedy(healthy()).times["lr"] < 1


def test_a_clip_is_raised_to_the_usual_norm_of_the_gradient() -> None:
    tight = sick({"clipped": flat(1.0), "grad_norm": flat(0.8)}, config={"clip_norm": 0.001})
    assert PATHOLOGIES["clipped_too_hard"].remedy(tight).apply(tight.config).clip_norm == pytest.approx(1.0)
    assert PATHOLOGIES["clipped_too_hard"].remedy(RUNS["clipped_too_hard"]).times["clip_norm"] == 10
