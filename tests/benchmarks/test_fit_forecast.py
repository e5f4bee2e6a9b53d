"""The fit of the forecast's coefficients finds those that made the data."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from benchmarks.search.calibration import LEVELS, SHARES, scores
from benchmarks.search.fit_forecast import Asked, checked, fit, pasted
from benchmarks.search.forecast import INPUTS, Coefficients, distribution

TRUE = Coefficients(
    still={"one": -1.0, "flat": 1.5, "left": -0.5},
    centre={"one": -1.0, "said": 0.8, "slope": 0.3},
    spread={"one": -0.5, "left": 0.2},
    freedom=5.0,
)


NAMES = ("one", "other"), ("a", "b", "c", "d"), SHARES


def made(n: int, seed: int) -> Asked:
    """Truths drawn by inverting the distribution of TRUE."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, len(INPUTS)))
    x[:, INPUTS.index("one")] = 1
    x[:, INPUTS.index("left")] = rng.uniform(0.5, 3, n)
    current = rng.uniform(0.5, 1.5, n)
    truth = [
        distribution(x[i : i + 1], current[i : i + 1], TRUE).quantiles(np.array([level]))[0, 0]
        for i, level in enumerate(rng.random(n))
    ]
    return Asked(
        x,
        current,
        np.array(truth),
        *(rng.choice(names, n) for names in NAMES),
    )


def test_the_coefficients_that_made_the_data_are_found() -> None:
    found = fit(made(2000, 0))
    for part in ("still", "centre", "spread"):
        for name, value in vars(found)[part].items():
            assert value == pytest.approx(vars(TRUE)[part].get(name, 0.0), abs=0.45), (part, name)  # 3 standard errors
    some = made(2000, 1)
    covered, _, _ = scores(distribution(some.x, some.current, found), some.truth)
    assert covered.mean(axis=0) == pytest.approx(LEVELS, abs=0.03)


def test_every_table_and_share_counts_the_same() -> None:
    asked = made(400, 2).at(np.arange(400) % 5 != 0)
    weight = asked.weights()
    groups = [(asked.benchmark == b) & (asked.table == t) & (asked.share == s) for b, t, s in product(*NAMES)]
    assert weight.mean() == pytest.approx(1)
    assert [weight[group].sum() for group in groups] == pytest.approx([len(weight) / len(groups)] * len(groups))


def test_what_is_checked_was_not_fitted() -> None:
    asked = made(600, 3)
    folds = np.where(asked.benchmark == "one", 0, 1)
    lines = list(checked(asked, folds))
    assert len(lines) == 9  # two benchmarks and all, at three shares
    # Inputs that say the contrary in one fold make the lines of the other worse, which are fitted to that fold.
    x = np.where(folds[:, None] == 0, -asked.x, asked.x)
    wrong = Asked(x, asked.current, asked.truth, asked.benchmark, asked.table, asked.share)
    for line, other in zip(lines, checked(wrong, folds), strict=True):
        if " other " in line:
            assert float(other.split()[-1]) < float(line.split()[-1])


def test_what_is_pasted_is_python_and_the_same() -> None:
    found = fit(made(400, 4))
    scope: dict[str, object] = {"Coefficients": Coefficients}
    exec(pasted(found), scope)
    again = scope["FITTED"]
    assert isinstance(again, Coefficients)
    for part in ("still", "centre", "spread"):
        assert vars(again)[part] == pytest.approx(vars(found)[part], rel=0.01)
