"""Splitting and standardising: proportions, determinism, and numbers that are hard to standardise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.data.scaling import CHUNK_VALUES, moments, standardised
from rheostat.data.split import split
from rheostat.errors import DataError, SettingError


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8),
    st.floats(0.05, 0.6),
    st.integers(-5, 5),
    st.randoms(use_true_random=False),
)
def test_every_class_is_in_both_parts_in_its_share(counts, fraction, seed, random):
    classes = [c for c, count in enumerate(counts) for _ in range(count)]
    random.shuffle(classes)
    classes = np.array(classes)
    train, validation = split(len(classes), fraction, seed, classes)
    assert sorted([*train, *validation]) == list(range(len(classes)))
    for c, count in enumerate(counts):
        validated = int((classes[validation] == c).sum())
        if count == 1:
            assert validated == 0
        else:
            assert 1 <= validated <= count - 1
            # within one row of the exact share, of which the total is rounded up
            exact = count * math.ceil(fraction * len(classes)) / len(classes)
            assert max(exact, 1) - 1 <= validated + 1e-9 and validated <= exact + 1 + 1e-9


def test_digits_like_sizes_and_shares_are_exact():
    classes = np.repeat(np.arange(10), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    train, validation = split(1797, 0.2, 0, classes)
    assert (len(train), len(validation)) == (1437, 360)
    assert set(np.bincount(classes[validation])) <= {35, 36, 37}


def test_depends_on_the_seed_alone():
    classes = np.arange(100) % 3
    for given_classes in (None, classes):
        first = split(100, 0.2, 0, given_classes)[1]
        np.random.seed(5)
        assert (split(100, 0.2, 0, given_classes)[1] == first).all()
        assert (split(100, 0.2, 1, given_classes)[1] != first).any()
        assert len(first) == 20


def test_every_row_is_as_likely_to_validate():
    times = np.zeros(40)
    classes = np.arange(40) % 2
    for seed in range(500):
        times[split(40, 0.25, seed, classes)[1]] += 1
    # binomial(500, 1/4): mean 125, standard deviation 9.7
    assert np.abs(times - 125).max() < 4.5 * 9.7


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan])
def test_refuses_other_fractions(fraction):
    with pytest.raises(SettingError, match="validation_fraction"):
        split(20, fraction, 0)


def test_regression_keeps_a_row_to_train_on():
    train, validation = split(10, 0.99, 0)
    assert (len(train), len(validation)) == (1, 9)


# -- standardising ------------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from(["f4", "f8", "i2", "u1"]))
def test_equal_to_the_textbook(rows, columns, seed, dtype):
    values = (np.random.default_rng(seed).normal(size=(rows, columns)) * 30 + 50).clip(0, 200).astype(dtype)
    mean, sd = moments(values, "x")
    assert np.allclose(mean, values.astype(float).mean(0))
    varies = np.ptp(values, 0) > 0
    assert np.allclose(sd, np.where(varies, values.astype(float).std(0), 1))
    scaled = standardised(values, mean, sd, "x").numpy()
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, (values - mean) / sd, atol=1e-5)
    assert (scaled[:, ~varies] == 0).all()


def test_large_data_are_worked_on_in_parts_with_the_same_result():
    values = np.random.default_rng(0).integers(0, 256, (CHUNK_VALUES // 64 + 3, 64)).astype(np.uint8)
    mean, sd = moments(values, "x")
    assert np.allclose(mean, values.mean(0, dtype=float)) and np.allclose(sd, values.std(0, dtype=float))
    scaled = standardised(values, mean, sd, "x").numpy()
    assert np.allclose(scaled[-5:], (values[-5:] - mean) / sd, atol=1e-5)


def test_a_constant_that_binary_cannot_hold_becomes_exact_zeros():
    values = np.full((1000, 1), 0.1)
    mean, sd = moments(values, "x")
    assert (standardised(values, mean, sd, "x").numpy() == 0).all()


def test_a_spread_below_the_smallest_square_is_taken_as_none():
    values = np.array([[0.0], [1e-200]])
    mean, sd = moments(values, "x")
    assert sd.tolist() == [1.0] and np.isfinite(standardised(values, mean, sd, "x").numpy()).all()


def test_numbers_that_are_too_large_are_refused_in_words():
    with pytest.raises(DataError, match=r"height.*too large"):
        moments(np.array([[1e308], [-1e308]]), "height")
    with pytest.raises(DataError, match=r"height.*too far"):
        standardised(np.array([[1e300]]), np.zeros(1), np.ones(1), "height")
