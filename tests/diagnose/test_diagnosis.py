"""Diagnosis: ranks, time order, what explains what, and the words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.diagnose.base import HEALTHY, Observations
from rheostat.diagnose.catalogue import LEARNT, PATHOLOGIES
from rheostat.diagnose.diagnosis import CONFIDENT, LEAST, MOST, diagnose
from rheostat.diagnose.wording import PROBES
from rheostat.errors import SettingError
from rheostat.types import Status
from tests.diagnose.test_pathologies import EPOCHS, RUNS, T, anything, flat, healthy, sick

HIGH = RUNS["lr_too_high"]
DYING = replace(HIGH, layers={"dead": {"b": np.where(T < 6, 0.1, 0.9)}})  # after the leap in the first updates
FIRST_DEAD = sick({"train_loss": np.where(T < 6, 1.0, 0.6 + 0.3 * (-1) ** T)}, layers={"dead": {"b": flat(0.9)}})


def test_a_likely_cause_is_told_with_its_numbers_and_what_to_do() -> None:
    found = diagnose(HIGH, {"lr_too_high": 0.9, HEALTHY: 0.06, "needs_decay": 0.04})
    assert found.sure and not found.probe
    assert [cause.name for cause in found.causes] == ["lr_too_high"]
    assert found.verdict == (
        "Learning rate too high: after 2 updates the loss was 3 times that of the untrained network; "
        "divide the learning rate by 10, to 0.001."
    )
    assert found.causes[0].advice.apply(HIGH.config).lr == pytest.approx(0.001)
    assert found.healthy == pytest.approx(0.06)


def test_a_sound_run_is_told_what_it_came_to() -> None:
    found = diagnose(healthy(), {HEALTHY: 0.95, "overfitting": 0.05})
    assert found.sure and not found.causes
    assert found.verdict == "Trained well: validation error 3%, lowest after epoch 20 of 20."
    so_far = diagnose(healthy().until(10), {HEALTHY: 1.0})
    assert so_far.verdict.startswith("Trained well so far: validation error 3.6%, lowest after epoch 10 of 20")


def test_between_two_answers_the_probe_of_the_likeliest_would_decide() -> None:
    found = diagnose(RUNS["lr_too_low"], {"lr_too_low": 0.5, "too_short": 0.4, HEALTHY: 0.1})
    assert not found.sure and found.probe == "lr_up"
    assert found.verdict == (
        "Unsure: learning rate too low or trained too short? A few epochs at three times the learning rate would tell."
    )
    sound = diagnose(healthy(), {HEALTHY: 0.6, "needs_decay": 0.4})
    assert sound.probe == "cooldown"
    assert sound.verdict.startswith("Unsure: trained well or rate never lowered?")


def test_what_came_later_and_follows_is_a_symptom_and_no_cause() -> None:
    found = diagnose(DYING, {"lr_too_high": 0.5, "dead_units": 0.4, HEALTHY: 0.1})
    assert [cause.name for cause in found.causes] == ["lr_too_high"]
    assert "dead_units" in found.causes[0].explains


def test_what_came_first_is_not_explained_by_what_came_later() -> None:
    found = diagnose(FIRST_DEAD, {"lr_too_high": 0.5, "dead_units": 0.4, HEALTHY: 0.1})
    assert [cause.name for cause in found.causes] == ["lr_too_high", "dead_units"]
    assert "dead_units" not in found.causes[0].explains


def test_a_mere_possibility_explains_nothing() -> None:
    found = diagnose(DYING, {"lr_too_high": 0.1, "dead_units": 0.8, HEALTHY: 0.1})
    assert [cause.name for cause in found.causes] == ["dead_units", "lr_too_high"]


def test_nearly_as_likely_and_first_in_time_goes_before() -> None:
    found = diagnose(DYING, {"lr_too_high": 0.42, "dead_units": 0.48, HEALTHY: 0.1})
    assert [cause.name for cause in found.causes] == ["lr_too_high"]


def test_an_unlikely_pathology_that_is_seen_is_told_as_a_symptom() -> None:
    found = diagnose(DYING, {"lr_too_high": 0.95, "dead_units": 0.02, HEALTHY: 0.03})
    assert "dead_units" in found.causes[0].explains


def test_a_rule_that_speaks_takes_as_much_as_it_is_certain() -> None:
    found = diagnose(RUNS["leak"], {HEALTHY: 0.9, "overfitting": 0.1})
    certainty = PATHOLOGIES["leak"].certainty
    assert found.causes[0].name == "leak" and found.causes[0].probability == pytest.approx(certainty)
    assert found.healthy == pytest.approx(0.9 * (1 - certainty))


def test_a_rule_gives_way_where_a_likely_cause_leads_to_it() -> None:
    spiked = RUNS["spikes"]
    alone = diagnose(spiked, {HEALTHY: 1.0})
    assert alone.causes[0].name == "spikes"
    led = diagnose(spiked, {"lr_too_high": 0.95, HEALTHY: 0.05})
    assert led.causes[0].name == "lr_too_high"
    assert led.causes[0].probability > 0.9


def test_runs_that_ended_otherwise_say_so() -> None:
    memory = diagnose(RUNS["out_of_memory"], {HEALTHY: 1.0})
    assert memory.sure and memory.verdict.startswith("Out of memory: it ended with: out of memory at step 3; halve")
    failed = replace(healthy(), status=Status.FAILED, reason="ValueError: no such thing.")
    assert diagnose(failed, {HEALTHY: 1.0}).verdict == "It ended in an error: ValueError: no such thing."
    assert diagnose(Observations({}), {HEALTHY: 1.0}).verdict == "Unsure: nothing was measured yet."


def test_where_the_classifier_alone_speaks_it_is_said() -> None:
    found = diagnose(healthy(), {"overfitting": 0.9, HEALTHY: 0.1})
    assert found.causes[0].evidence == ("Its curves look like those of such runs.",)
    assert found.verdict.startswith("Overfitting: its curves look like those of such runs; keep the network of epoch")


def test_a_name_that_is_unknown_is_refused() -> None:
    with pytest.raises(SettingError, match="lr_to_high.*lr_too_high"):
        diagnose(healthy(), {"lr_to_high": 1.0})
    with pytest.raises(SettingError, match="spikes"):
        diagnose(healthy(), {"spikes": 1.0})  # a rule's own


@st.composite
def probabilities(draw: st.DrawFn) -> dict[str, float]:
    weights = draw(st.dictionaries(st.sampled_from((HEALTHY, *LEARNT)), st.floats(0.01, 1.0), min_size=1))
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


@given(anything(), probabilities())
def test_any_run_has_an_orderly_diagnosis(run: Observations, given: dict[str, float]) -> None:
    found = diagnose(run, given)
    chances = [cause.probability for cause in found.causes]
    assert chances == sorted(chances, reverse=True)
    assert len(chances) <= MOST and all(LEAST < chance <= 1 for chance in chances)
    assert found.healthy + sum(chances) <= 1 + 1e-9
    assert found.sure == (max([found.healthy, *chances]) >= CONFIDENT)
    assert (found.probe == "") if found.sure else (found.probe in PROBES)
    names = {cause.name for cause in found.causes}
    for cause in found.causes:
        assert cause.evidence and cause.advice.text
        assert set(cause.explains) <= set(PATHOLOGIES[cause.name].leads_to) - names
    assert found.verdict.endswith((".", "?")) and "\n" not in found.verdict


@given(st.integers(1, EPOCHS))
def test_a_run_in_training_is_diagnosed_at_any_time(epoch: int) -> None:
    for run in RUNS.values():
        assert diagnose(run.until(epoch), {HEALTHY: 0.5, "lr_too_low": 0.5}).verdict
