from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rheostat.errors import SettingError, SpaceError
from rheostat.probe import learning_rate
from rheostat.probe.learning_rate import Ramp, RangeTest, Spread, lr_range_test, read_ramp
from rheostat.space import Choice, Float, Prior, Space
from rheostat.train.hooks import StopAtStep
from rheostat.train.task import Task
from rheostat.types import Config


def blobs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    return torch.randn(4, 8, generator=generator)[y] * 2 + torch.randn(400, 8, generator=generator), y


def make(model: Any = None, **settings: Any) -> Task:
    data = blobs()
    return Task(model or net, data, data, device="cpu", **settings)


def net(config: Config) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))


# -- what a curve says ---------------------------------------------------------------------------------------

LRS = np.geomspace(1e-7, 10, 100)


def curve(falls: float, bottom: float, rises: float, noise: float = 0.0, start: float = 2.0) -> list[float]:
    """Straight lines on a log scale: `start` until `falls`, down to 0.2 until `bottom`, up from `rises`."""
    places = np.log10([1e-7, falls, bottom, rises, 10 * rises])
    losses = np.interp(np.log10(LRS), places, [start, start, 0.2, 0.2, 5 * start])
    return (losses + noise * np.random.default_rng(0).standard_normal(100)).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_three_answers(noise: float) -> None:
    ramp = read_ramp(LRS.tolist(), curve(1e-4, 1e-2, 1e-1, noise), 100)
    assert ramp.falls_from and ramp.steepest and ramp.largest_stable
    assert ramp.falls_from == pytest.approx(1e-4 * 10**0.2, rel=0.6)  # a tenth of the fall of two decades
    assert 1e-4 < ramp.steepest < 1e-2
    assert ramp.largest_stable == pytest.approx(1e-1, rel=0.5)
    assert ramp.start == pytest.approx(2.0, abs=0.1) and ramp.lowest == pytest.approx(0.2, abs=0.1)
    assert not ramp.open


@pytest.mark.parametrize("kind", ["standard_normal", "standard_exponential"])
def test_noise_alone_is_no_fall(kind: str) -> None:
    """Fewer than 1 of 100 curves of nothing but noise."""
    found = 0
    for seed in range(500):
        noise = getattr(np.random.default_rng(seed), kind)(100)
        found += read_ramp(LRS.tolist(), (2.3 + 0.3 * noise).tolist(), 100).largest_stable is not None
    assert found < 5


def test_a_loss_that_still_falls_at_the_end_is_open() -> None:
    ramp = read_ramp(LRS.tolist(), curve(1e-2, 10.0, 100.0), 100)
    assert ramp.open and ramp.largest_stable == LRS[-1]


def test_losses_that_are_not_finite_stand_at_the_ceiling() -> None:
    losses = curve(1e-4, 1e-2, 1e-1)[:90]
    ramp = read_ramp(LRS[:91].tolist(), [*losses, math.inf], 100)
    assert ramp.largest_stable == pytest.approx(1e-1, rel=0.5)
    assert read_ramp([1e-7], [math.nan], 100).largest_stable is None


# -- trainings -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tested() -> RangeTest:
    return lr_range_test(make(), {"optimizer": "adam", "batch_size": 16, "lr": 123.0})


def test_a_network_that_can_be_trained(tested: RangeTest) -> None:
    assert len(tested.ramps) == 3 and tested.optimizer == "adam"
    assert tested.falls_from and tested.steepest and tested.largest_stable
    assert tested.low < tested.falls_from.median <= tested.steepest.median < tested.largest_stable.median < tested.high
    assert 0.003 < tested.largest_stable.median < 1.0
    assert tested.largest_stable.low <= tested.largest_stable.median <= tested.largest_stable.high
    for ramp in tested.ramps:
        assert ramp.lrs[0] == 1e-7 and ramp.lrs[1] == pytest.approx(1e-7 * 1e8 ** (1 / 99))
        assert len(ramp.losses) == len(ramp.lrs) <= 100
    assert tested.ramps[0].losses[0] != tested.ramps[1].losses[0]  # other weights and batches


def test_the_prior_is_a_fifth_of_what_is_stable(tested: RangeTest) -> None:
    assert tested.prior is not None and tested.largest_stable is not None
    assert tested.prior.value == pytest.approx(tested.largest_stable.median / 5, rel=0.05)
    assert tested.prior.sure == pytest.approx(2 * NormalDist(0, 0.55).cdf(0.5) - 1, abs=0.01)
    assert "is a prior for it. Tune it all the same" in tested.words


def test_a_space_takes_the_prior(tested: RangeTest) -> None:
    space = Space(lr=Float(1e-4, 1e-1, log=True, prior=3e-3), optimizer=Choice(["adam", "sgd"]), batch_size=16)
    found = tested.apply(space)
    assert list(found) == list(space) and found.fixed == space.fixed
    assert found.tuned["lr"].prior.value == tested.prior.value  # type: ignore[union-attr]
    assert found.tuned["lr"].prior.sure < tested.prior.sure  # type: ignore[union-attr]  # near is less in three decades
    assert (found.tuned["lr"].low, found.tuned["lr"].high) == (1e-4, 1e-1)  # type: ignore[union-attr]
    with pytest.raises(SpaceError, match="does not tune lr"):
        tested.apply(Space(lr=0.1, units=Choice([1, 2])))


@given(st.floats(1e-9, 1e3), st.floats(1e-6, 1e-1), st.floats(1.5, 1e5), st.booleans())
def test_any_range_takes_any_prior(stable: float, low: float, factor: float, log: bool) -> None:
    ramp = Ramp((1.0,), (1.0,), (1.0,), 1.0, 1.0, 0.0)
    test = RangeTest("sgd", 32, 1e-7, 10, (ramp,), None, None, Spread(stable, stable, stable))
    prior = test.apply(Space(lr=Float(low, low * factor, log=log))).tuned["lr"].prior
    assert isinstance(prior, Prior) and 0.05 <= prior.sure <= 0.9
    assert prior.value == pytest.approx(min(max(stable / 5, low), low * factor), rel=0.06)


def test_every_ramp_is_the_same_again_and_nothing_is_seen_outside(tested: RangeTest) -> None:
    state = torch.get_rng_state()
    again = lr_range_test(make(), {"optimizer": "adam", "batch_size": 16})
    assert again == tested
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_gradients_has_no_answer() -> None:
    found = lr_range_test(make(lambda config: Constant()), {"optimizer": "sgd"}, seeds=2)
    assert found.falls_from is found.largest_stable is found.prior is None
    assert "falls at no learning rate" in found.words and "rheostat probe init" in found.words
    space = Space(lr=Float(1e-4, 1e-1, log=True, prior=3e-3))
    assert found.apply(space) == space
    assert json.loads(json.dumps(found.describe(), allow_nan=False))["prior"] is None


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * 0 + torch.zeros(len(x), 4)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adamw", "lion", "adagrad", "nadam"])
def test_every_optimiser_is_ramped(optimizer: str) -> None:
    found = lr_range_test(make(), {"optimizer": optimizer, "schedule": "cosine", "warmup": 0.5}, seeds=1)
    assert found.largest_stable is not None and found.optimizer == optimizer


def test_weight_decay_is_tried_by_repetition() -> None:
    found = lr_range_test(make(), {"optimizer": "momentum"}, weight_decays=(0, 1e-3, 100.0), seeds=1)
    assert [decay.weight_decay for decay in found.decays] == [0, 1e-3, 100]
    assert found.weight_decay == 1e-3
    assert found.table is not None and len(found.table.rows) == 3
    assert "The largest weight decay that costs neither" in found.words


def test_a_curve_to_be_drawn(tested: RangeTest) -> None:
    values = tested.curve(60)
    assert len(values) == 60 and values[0] == pytest.approx(tested.ramps[0].start, abs=0.5)
    assert min(v for v in values if math.isfinite(v)) == pytest.approx(tested.ramps[0].lowest, abs=0.2)
    json.dumps(tested.describe(), allow_nan=False)


def test_a_hook_may_end_a_ramp() -> None:
    found = lr_range_test(make(hooks=lambda config: [StopAtStep(last_step=30)]), {}, seeds=1)
    assert len(found.ramps[0].lrs) == 30


def test_a_shared_network_is_as_it_was() -> None:
    shared = net(Config())
    before = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    lr_range_test(make(lambda config: shared), {}, seeds=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())


def test_wrong_arguments() -> None:
    for wrong in ({"low": 0.0}, {"low": 1.0, "high": 0.1}, {"steps": 5}, {"seeds": 0}):
        with pytest.raises(SettingError, match="give"):
            lr_range_test(make(), {}, **wrong)  # type: ignore[arg-type]


def test_the_allowed_weight_decay_needs_both_a_low_loss_and_a_large_rate() -> None:
    ramps = (Ramp((1.0,), (2.0,), (2.0,), 2.0, 2.0, 0.0),)
    tried = [(0.0, 0.5, 0.1), (1e-3, 0.52, 0.1), (1e-2, 0.5, 0.01), (1e-1, 1.5, 0.1), (1.0, 2.0, None)]
    assert learning_rate._allowed([learning_rate.Decay(*values) for values in tried], ramps) == 1e-3
    assert learning_rate._allowed([learning_rate.Decay(0.0, 2.0, None)], ramps) is None
