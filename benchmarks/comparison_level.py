"""How often does a comparison call one of several equal arms better or worse, and how often a better one better?

    python -m benchmarks.comparison_level [--studies 400] [--quick]

Each simulated study tunes its arms by `Zoom` on noisy validation values, repeats the two finalists over seeds and
judges them, as `rheostat.compare` does. Noise is in units of the standard deviation between seeds, and the level is
5 %. Beside the test of `rheostat.analysis.comparison` stands a paired t test over the seeds of the chosen
configurations ("plain").
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rheostat.analysis.comparison import Repeats, Verdict, holm, judge, ranked
from rheostat.search.zoom import Zoom
from rheostat.space import Float, Space
from rheostat.types import History, Status, TrialRecord

LEVEL = 0.05
ENDS = 1e-4, 1.0  # of the learning rate


@dataclass(frozen=True)
class World:
    """What arms are like.

    The loss rises by `curvature` (x - x*)² below the best learning rate x*, and three times as steeply above it, x from
    0 to 1 over four decades. `optima` says whether all arms have the same x*, `points` whether they try the same first
    learning rates; noise of the same seed has `correlation` between arms. Where `test` is, arms are judged on other
    examples than they are chosen by: half of the noise is new, and each configuration is off by something of its
    own with standard deviation 0.5. With `examples`, values are shares of so many examples, 3 % of them wrong.
    `gains` are what each arm is better by.
    """

    curvature: float = 100.0
    trials: int = 8
    seeds: int = 5
    arms: int = 2
    optima: str = "equal"
    points: str = "shared"
    correlation: float = 0.0
    test: bool = False
    noise: str = "normal"
    spread: float = 1.0  # of the noise of the last arm
    examples: int = 0
    gains: tuple[float, ...] = ()


def simulate(world: World, rng: np.random.Generator) -> list[list[Repeats]]:
    """The finalists of every arm of one study."""
    seed = int(rng.integers(2**31))
    best, common = rng.uniform(0.2, 0.8), rng.standard_normal((3, max(world.trials + 4, world.seeds)))
    arms = []
    for arm in range(world.arms):
        optimum = best if world.optima == "equal" else rng.uniform(0.2, 0.8)
        gain = world.gains[arm] if world.gains else 0.0
        spread = world.spread if arm == world.arms - 1 else 1.0
        own = np.random.default_rng(seed if world.points == "shared" and world.optima == "equal" else rng)
        points = seed if world.points == "shared" else int(rng.integers(2**31))
        arms.append(_arm(world, rng, own, points, optimum, gain, spread, common))
    return arms


def _arm(
    world: World,
    rng: np.random.Generator,
    own: np.random.Generator,
    points: int,
    optimum: float,
    gain: float,
    spread: float,
    common: NDArray[np.float64],
) -> list[Repeats]:
    def loss(lr: float) -> float:
        offset = math.log(lr / ENDS[0]) / math.log(ENDS[1] / ENDS[0]) - optimum
        return world.curvature * offset**2 * (3 if offset > 0 else 1) - gain

    def noise(shared: NDArray[np.float64]) -> NDArray[np.float64]:
        fresh = _draw(world.noise, rng, shared.shape)
        return spread * (math.sqrt(world.correlation) * shared + math.sqrt(1 - world.correlation) * fresh)

    zoom = Zoom(Space(lr=Float(*ENDS, log=True)), world.trials, points)
    offs = 0.5 * own.standard_normal(64)  # of each configuration on the test examples
    trials: list[TrialRecord] = []
    errors = noise(common[0])
    while found := zoom.suggest(History(tuple(trials)), 8, rng):
        for config in found:
            value = _measured(world, loss(config.lr) + errors[len(trials)], rng)
            trials.append(TrialRecord(len(trials), config, Status.DONE, (value,), 1))
    finalists = sorted(trials, key=lambda t: t.best)[:2]
    repeats = []
    for rank, trial in enumerate(finalists):
        runs, true = noise(common[1 + rank][: world.seeds]), loss(trial.config.lr)
        validation = [_measured(world, true + run, rng) for run in runs]
        if not world.test:
            repeats.append(Repeats.of(validation))
            continue
        other = spread * _draw(world.noise, rng, (world.seeds,))
        off = offs[trial.number]
        judged = [
            _measured(world, true + off + math.sqrt(0.5) * (r + o), rng) for r, o in zip(runs, other, strict=True)
        ]
        repeats.append(Repeats.of(validation, judged))
    return repeats


def _draw(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Noise with mean 0 and standard deviation 1: normal, or with heavy or lopsided tails."""
    if kind == "heavy":
        return rng.standard_t(4, shape) / math.sqrt(2)
    return rng.exponential(size=shape) - 1 if kind == "lopsided" else rng.standard_normal(shape)


def _measured(world: World, value: float, rng: np.random.Generator) -> float:
    """The value, or as a share of examples: about 3 % of them wrong, where one unit is the deviation between seeds."""
    if not world.examples:
        return value
    unit = math.sqrt(0.03 * 0.97 / world.examples)
    return round((0.03 + unit * value) * world.examples) / world.examples


def wrong_rate(world: World, studies: int, seed: int = 0) -> tuple[float, float]:
    """The share of studies with a verdict of better or worse: by a plain paired t test, and by `judge`."""
    rng = np.random.default_rng(seed)
    plain = judged = 0
    for _ in range(studies):
        arms = simulate(world, rng)
        plain += min(holm(_plain(arms))) <= LEVEL
        judged += any(j.verdict in (Verdict.BETTER, Verdict.WORSE) for j in judge(arms, 0, LEVEL))
    return plain / studies, judged / studies


def right_rate(world: World, studies: int, seed: int = 0) -> tuple[float, float]:
    """The share of studies in which the last arm is called better: by a plain paired t test, and by `judge`."""
    rng = np.random.default_rng(seed)
    plain = judged = 0
    for _ in range(studies):
        arms = simulate(world, rng)
        best = [arm[ranked(arm)[0]].judged.mean() for arm in (arms[0], arms[-1])]
        plain += holm(_plain(arms))[-1] <= LEVEL and best[1] < best[0]
        judged += judge(arms, 0, LEVEL)[-1].verdict is Verdict.BETTER
    return plain / studies, judged / studies


def _plain(arms: Sequence[Sequence[Repeats]]) -> list[float]:
    """P values of paired t tests of each arm and the first, over the seeds of their chosen configurations."""
    chosen = [arm[ranked(arm)[0]].judged for arm in arms]
    return [_paired_t(other - chosen[0]) for other in chosen[1:]]


def _paired_t(differences: NDArray[np.float64]) -> float:
    n, mean = len(differences), float(differences.mean())
    error = math.sqrt(float(((differences - mean) ** 2).sum()) / (n - 1) / n)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(special.stdtr(n - 1, -abs(mean) / error))


GRID = {"curvature": (0.0, 10.0, 100.0, 1000.0), "trials": (4, 8, 32), "seeds": (3, 5, 10)}
KINDS = {
    "equal arms": World(),
    "equal arms, same-seed noise correlated 0.7": World(correlation=0.7),
    "equal arms, judged on test examples": World(test=True),
    "other first points": World(points="separate"),
    "other best learning rate": World(optima="shifted"),
    "other best learning rate, judged on test": World(optima="shifted", test=True),
}
OTHERS = {
    "4 arms": World(arms=4),
    "7 arms, other best learning rates": World(arms=7, optima="shifted"),
    "heavy tails": World(noise="heavy"),
    "lopsided noise": World(noise="lopsided"),
    "last arm three times as noisy": World(spread=3.0),
    "shares of 360 examples, 3 seeds": World(examples=360, seeds=3),
    "shares of 100 examples, 3 seeds": World(examples=100, seeds=3),
    "2 seeds": World(seeds=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="fewer worlds")
    options = parser.parse_args()
    print(
        f"better or worse of equal arms, in {options.studies} studies each: the largest of the worlds, plain and ours"
    )
    for name, kind in KINDS.items():
        for seeds in GRID["seeds"]:
            cells = itertools.product(GRID["curvature"], GRID["trials"][1:2] if options.quick else GRID["trials"])
            worlds = [replace(kind, curvature=c, trials=int(t), seeds=int(seeds)) for c, t in cells]
            rates = [wrong_rate(world, options.studies) for world in worlds]
            print(
                f"{name:<44} {seeds:>3} seeds {max(p for p, _ in rates):6.1%} {max(o for _, o in rates):6.1%}",
                flush=True,
            )
    for name, world in OTHERS.items():
        plain, ours = wrong_rate(world, options.studies)
        print(f"{name:<54}  plain {plain:6.1%}  ours {ours:6.1%}", flush=True)
    print("A better arm called better")
    for gain, seeds, curvature in itertools.product((1.0, 2.0, 3.0, 5.0), (3, 5, 10), (30.0, 200.0)):
        world = World(curvature=curvature, seeds=seeds, gains=(0.0, gain))
        plain, ours = right_rate(world, options.studies)
        print(
            f"by {gain}, curvature {curvature:<28} {seeds:>3} seeds  plain {plain:6.1%}  ours {ours:6.1%}", flush=True
        )


if __name__ == "__main__":
    main()
