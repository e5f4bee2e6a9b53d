"""Population based bandits: PBT in which a Gaussian process says what copies do differently.

Parker-Holder, Nguyen and Roberts 2020, *Provably efficient online hyperparameter optimization with population-based
bandits*, NeurIPS 33.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rheostat.schedule.pbt import Perturb
from rheostat.space import Space
from rheostat.types import Config, History, Scalar, Start, Status, TrialRecord

LEAST, MOST = 6, 200  # intervals that the process is fitted to, the newest
CANDIDATES = 500
# Of the process, chosen by their likelihood: lengths in unit intervals, forgetting per interval, noise beside 1.
LENGTHS, FORGETTING, NOISES = (0.1, 0.2, 0.4, 0.8, 1.6), (0.0, 0.02, 0.1, 0.3), (0.01, 0.1, 0.5)

Array = NDArray[np.float64]


class Bandit:
    """The values under which a network gains most in the next interval, as far as all trials so far can tell.

    What was gained in an interval, f_t - f_(t-b), is a Gaussian process over the hyperparameters, the value at its
    beginning and time, which forgets: k((x, t), (x', t')) = k_SE(x, x') (1 - w)^(|t - t'| / 2), after Bogunovic et al.
    2016. A copy takes the values with the highest mean + sqrt(beta) deviation among 500 random ones, where beta = 0.2 +
    log(0.4 t), at least 0.2, and t counts intervals; those in flight count as tried, with the gain expected of them.
    Before six intervals are known it is `Perturb`.

    It is for small populations, of 4 to 8: they teach the process more than random changes would find. Raises
    SettingError as `Perturb` does.
    """

    def __init__(self, space: Space, names: tuple[str, ...] = ()) -> None:
        self.space = space
        self.perturb = Perturb(space, names)

    def explore(
        self, parent: TrialRecord, history: History, interval: int, copies: Sequence[Start], rng: np.random.Generator
    ) -> Config:
        names = tuple(name for name in self.perturb.names if name in parent.config)
        inputs, times, gains = self._intervals(history, interval, names)
        if len(gains) < LEAST or not names:
            return self.perturb.explore(parent, history, interval, copies, rng)
        now, value = parent.epochs / interval, parent.values[-1]
        flying = [t.config for t in history.trials if t.status is Status.TRAINING] + [copy.config for copy in copies]
        tried = [self._point(config, names) for config in flying if all(name in config for name in names)]
        units = rng.random((CANDIDATES, len(names)))
        low, high = inputs[:, -1].min(), inputs[:, -1].max()
        level = 0.5 if high == low else (value - low) / (high - low)
        inputs[:, -1] = 0.5 if high == low else (inputs[:, -1] - low) / (high - low)
        process = Process.fit(inputs, times, (gains - gains.mean()) / (gains.std() or 1.0))
        if tried:
            process = process.pretend(np.array([[*point, level] for point in tried]), np.full(len(tried), now))
        mean, deviation = process.predict(np.column_stack([units, np.full(CANDIDATES, level)]), now)
        beta = 0.2 + math.log(max(0.4 * now, 1.0))
        best = units[int(np.argmax(mean + math.sqrt(beta) * deviation))]
        changed: dict[str, Scalar] = {n: self.space[n].decode(float(u)) for n, u in zip(names, best, strict=True)}
        return Config({**parent.config, **changed})

    def _point(self, config: Config, names: Sequence[str]) -> list[float]:
        return [self.space[name].encode(config[name]) for name in names]

    def _intervals(self, history: History, interval: int, names: Sequence[str]) -> tuple[Array, Array, Array]:
        """Of each interval trained: hyperparameters and first value (n, names + 1), end (n,), and gain (n,)."""
        found: list[tuple[int, list[float], float]] = []
        for trial in history.trials:
            if any(name not in trial.config for name in names):
                continue
            point = self._point(trial.config, names)
            for end in range(max(trial.born, interval) + interval, trial.epochs + 1, interval):
                first, last = trial.values[end - interval - 1], trial.values[end - 1]
                if math.isfinite(first - last):
                    found.append((end, [*point, first], first - last))
        newest = sorted(found, key=lambda row: row[0])[-MOST:]
        inputs = np.array([row for _, row, _ in newest]).reshape(len(newest), len(names) + 1)
        times = np.array([end / interval for end, _, _ in newest])
        return inputs, times, np.array([gain for _, _, gain in newest])


class Process:
    """A Gaussian process over inputs (n, d) of about unit size and times (n,), of standardised outputs (n,)."""

    def __init__(
        self, inputs: Array, times: Array, outputs: Array, length: float, forgetting: float, noise: float
    ) -> None:
        self.inputs, self.times, self.outputs = inputs, times, outputs
        self.length, self.forgetting, self.noise = length, forgetting, noise
        covariance = self._kernel(inputs, times, inputs, times) + noise * np.eye(len(outputs))
        self._factor = np.linalg.cholesky(covariance)
        self._white = np.linalg.solve(self._factor, outputs)

    @classmethod
    def fit(cls, inputs: Array, times: Array, outputs: Array) -> Process:
        """With the settings of the grid under which the outputs are likeliest."""
        grid = product(LENGTHS, FORGETTING, NOISES)
        return max((cls(inputs, times, outputs, *settings) for settings in grid), key=cls.log_likelihood)

    def log_likelihood(self) -> float:
        log_determinant = 2 * float(np.log(np.diag(self._factor)).sum())
        return -0.5 * (float(self._white @ self._white) + log_determinant + len(self.outputs) * math.log(2 * math.pi))

    def pretend(self, inputs: Array, times: Array) -> Process:
        """The process after measuring at these places exactly what it expects there (Desautels et al. 2014)."""
        mean = np.array([self.predict(row[None], float(t))[0][0] for row, t in zip(inputs, times, strict=True)])
        return Process(
            np.vstack([self.inputs, inputs]),
            np.append(self.times, times),
            np.append(self.outputs, mean),
            self.length,
            self.forgetting,
            self.noise,
        )

    def predict(self, inputs: Array, time: float) -> tuple[Array, Array]:
        """Mean and standard deviation (m,) at inputs (m, d) and a time."""
        cross = self._kernel(self.inputs, self.times, inputs, np.full(len(inputs), time))
        solved = np.linalg.solve(self._factor, cross)
        variance = 1 - np.sum(solved**2, axis=0)
        return solved.T @ self._white, np.sqrt(np.maximum(variance, 0.0))

    def _kernel(self, a: Array, a_times: Array, b: Array, b_times: Array) -> Array:
        squared = np.sum((a[:, None] - b[None]) ** 2, axis=-1)
        apart = np.abs(a_times[:, None] - b_times[None])
        found: Array = np.exp(-squared / (2 * self.length**2)) * (1 - self.forgetting) ** (apart / 2)
        return found
