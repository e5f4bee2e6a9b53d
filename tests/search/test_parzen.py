from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import kstest, truncnorm

from rheostat.search.parzen import Categories, Cells, Line, Mixture, axis_of, encode
from rheostat.space import Choice, Float, Hyperparameter, Int, Prior
from tests.spaces import choices, floats, ints

parts = st.one_of(floats(), ints(), choices())
widths = st.floats(0.01, 0.9)


def truncated(center: float, width: float) -> truncnorm:
    return truncnorm(-center / width, (1 - center) / width, loc=center, scale=width)


@given(center=st.floats(0, 1), width=widths, unit=st.floats(0, 1))
def test_the_kernel_of_a_float_is_a_truncated_normal_distribution(center: float, width: float, unit: float) -> None:
    axis = axis_of(Float(1e-4, 1.0, log=True))
    density = axis.kernel(np.array([unit]), np.array([center]), width)[0, 0]
    assert density == pytest.approx(truncated(center, width).pdf(unit), rel=1e-9)


@settings(max_examples=15)
@given(part=ints().filter(lambda p: (p.high - p.low) / (p.step or 1) < 63), width=widths, data=st.data())
def test_the_kernel_of_an_int_is_the_probability_that_the_normal_value_decodes_to_it(
    part: Int, width: float, data: st.DataObject
) -> None:
    axis = axis_of(part)
    assert isinstance(axis, Cells)
    values = sorted({part.decode(unit) for unit in np.linspace(0, 1, 4_001)})
    center = data.draw(st.sampled_from(values))
    codes = encode([axis], np.array([[part.encode(value)] for value in values]))[:, 0]
    assert [part.decode(unit) for unit in axis.decode(codes).tolist()] == values
    kernel = axis.kernel(codes, encode([axis], np.array([[part.encode(center)]]))[:, 0], width)[:, 0]
    assert kernel.sum() == pytest.approx(1)
    units = truncated(part.encode(center), width).ppf((np.arange(4_000) + 0.5) / 4_000)
    counted = [part.decode(unit) for unit in units.tolist()]
    assert kernel == pytest.approx([counted.count(value) / 4_000 for value in values], abs=1e-3)


@pytest.mark.parametrize("width", [0.0, 0.2, 0.75])
def test_the_kernel_of_a_choice_is_that_of_aitchison_and_aitken(width: float) -> None:
    axis = axis_of(Choice(["a", "b", "c", "d"]))
    table = axis.kernel(np.arange(4.0), np.arange(4.0), width)
    assert np.allclose(table, np.where(np.eye(4), 1 - width, width / 3))


@settings(max_examples=60)
@given(part=parts, center=st.floats(0, 1), width=widths)
def test_codes_lead_back_to_the_values_and_densities_to_one(part: Hyperparameter, center: float, width: float) -> None:
    axis = axis_of(part)
    units = np.linspace(0, 1, 501)
    codes = encode([axis], units[:, None])[:, 0]
    back = axis.decode(codes).tolist()
    assert [part.decode(unit) for unit in back] == [part.decode(part.encode(part.decode(u))) for u in back]
    assert np.isnan(axis.encode(np.array([math.nan]))).all()
    at = encode([axis], np.array([[part.encode(part.decode(center))]]))[:, 0]
    if isinstance(axis, Line):
        assert integrate.quad(lambda u: axis.kernel(np.array([u]), at, width)[0, 0], 0, 1, points=at)[
            0
        ] == pytest.approx(1)
        assert np.mean(axis.prior((np.arange(2000) + 0.5) / 2000)) == pytest.approx(1, abs=1e-3)
    else:
        distinct = np.unique(codes)
        assert axis.kernel(distinct, at, width).sum() == pytest.approx(1)
        assert axis.prior(distinct).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "part",
    [
        Float(0.0, 1.0),
        Float(1e-5, 1e-1, log=True, prior=Prior(1e-3, 0.7)),
        Float(0.0, 1.0, step=0.3),
        Int(1, 9),
        Int(1, 9, log=True, prior=2),
        Int(1, 5000, log=True),
        Choice(["a", "b", "c"], prior=Prior("b", 0.6)),
    ],
)
def test_draws_follow_the_kernels_and_the_priors(part: Hyperparameter) -> None:
    axis, rng = axis_of(part), np.random.default_rng(0)
    center = encode([axis], np.array([[part.encode(part.decode(0.4))]]))[:, 0]
    drawn = axis.draw(np.repeat(center, 20_000), 0.2, rng)
    from_prior = axis.draw_prior(20_000, rng)
    if isinstance(axis, Line):
        assert kstest(drawn, truncated(float(center[0]), 0.2).cdf).pvalue > 1e-3
        assert kstest([part.quantile(p) for p in rng.random(2000)], from_prior).pvalue > 1e-3
    else:
        codes = np.arange(drawn.max() + 1)
        assert np.bincount(drawn.astype(int)) / 20_000 == pytest.approx(
            axis.kernel(codes, center, 0.2)[:, 0], abs=0.015
        )
        assert np.bincount(from_prior.astype(int), minlength=len(codes)) / 20_000 == pytest.approx(
            axis.prior(codes), abs=0.015
        )


PARTS = [Float(0.0, 1.0), Choice(["a", "b", "c"]), Int(1, 5), Float(1.0, 10.0, log=True, prior=2.0)]
AXES = [axis_of(part) for part in PARTS]
WIDTHS = np.array([0.1, 0.3, 0.15, 0.25])


def some_mixture(seed: int, k: int = 6) -> Mixture:
    rng = np.random.default_rng(seed)
    return Mixture(AXES, encode(AXES, rng.random((k, 4))), rng.random(k), 0.5, WIDTHS)


@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_a_mixture_is_the_weighted_mean_of_products(c: int) -> None:
    mixture = some_mixture(0)
    codes = encode(AXES, np.random.default_rng(1).random((9, 4)))
    expected = np.zeros(9)
    for i, code in enumerate(codes):
        for center, weight in zip(mixture.centers, mixture.weights, strict=True):
            one = [a.kernel(code[d : d + 1], center[d : d + 1], WIDTHS[d])[0, 0] for d, a in enumerate(AXES)]
            expected[i] += weight * math.prod(one[:c])
        expected[i] += 0.5 * math.prod(a.prior(code[d : d + 1])[0] for d, a in enumerate(AXES[:c]))
    assert mixture.density(codes[:, :c]) == pytest.approx(expected / (mixture.weights.sum() + 0.5))


def test_a_kernel_added_is_one_that_was_there() -> None:
    whole = some_mixture(0)
    grown = Mixture(AXES, whole.centers[:3], whole.weights[:3], 0.5, WIDTHS)
    for center, weight in zip(whole.centers[3:], whole.weights[3:], strict=True):
        grown.add(center, float(weight))
    codes = encode(AXES, np.random.default_rng(1).random((9, 4)))
    assert grown.density(codes) == pytest.approx(whole.density(codes))


def test_draws_given_some_values_follow_the_conditional_density() -> None:
    mixture = some_mixture(2)
    given_codes = np.array([0.3, 1.0])
    drawn = mixture.draw(20_000, np.random.default_rng(0), given_codes)
    assert (drawn[:, :2] == given_codes).all()
    levels = np.arange(5.0)
    joint = mixture.density(np.column_stack([np.tile(given_codes, (5, 1)), levels]))
    shares = np.bincount(drawn[:, 2].astype(int), minlength=5) / 20_000
    assert shares == pytest.approx(joint / mixture.density(given_codes[None]), abs=0.015)


def test_without_a_single_center_a_mixture_is_the_prior() -> None:
    mixture = Mixture(AXES, np.empty((0, 4)), np.empty(0), 1.0, WIDTHS)
    drawn = mixture.draw(50, np.random.default_rng(0), np.empty(0))
    expected = np.prod([axis.prior(drawn[:, d]) for d, axis in enumerate(AXES)], axis=0)
    assert mixture.density(drawn) == pytest.approx(expected)


def test_long_ranges_are_continuous_and_short_ones_are_not() -> None:
    assert isinstance(axis_of(Int(1, 64)), Cells)
    assert isinstance(axis_of(Int(1, 65)), Line)
    assert isinstance(axis_of(Int(1, 100, step=9)), Cells)
    assert isinstance(axis_of(Float(0, 1, step=0.1)), Cells)
    assert isinstance(axis_of(Choice(list(range(200)))), Categories)
