"""How wide should a network be? Grow it while that helps, then regularise before shrinking.

The article's rule: add hidden units while the validation error falls. What it says next, to take units away where the
network overfits, cs231n (neural-networks-1) contradicts: use as large a network as can be afforded, and other ways
against overfitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rheostat import arms as design
from rheostat.analysis.compared import ArmResult, Comparison
from rheostat.analysis.comparison import Verdict
from rheostat.arms import Arm
from rheostat.bench import Bench
from rheostat.comparing import EPOCHS, concluded
from rheostat.errors import SettingError
from rheostat.show.text import number
from rheostat.space import Hyperparameter, Space
from rheostat.train.task import Task
from rheostat.types import Config, Scalar

REGULARISERS = ("weight_decay", "dropout")


@dataclass(frozen=True)
class Growth:
    """How a network grew: a comparison for each step, the reference being the width that was kept until then.

    `width` is the one to use and `arm` what it reached. `words` tell it step by step.
    """

    hyperparameter: str
    width: int
    regularised: bool
    arm: ArmResult
    steps: tuple[Comparison, ...]
    words: tuple[str, ...]

    @property
    def config(self) -> Config | None:
        return self.arm.config

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values."""
        return {
            "hyperparameter": self.hyperparameter,
            "width": self.width,
            "regularised": self.regularised,
            "config": None if self.config is None else dict(self.config),
            "steps": [step.describe() for step in self.steps],
            "words": list(self.words),
        }


def grow(
    task: Task,
    space: Space | Mapping[str, Hyperparameter | Scalar] | None = None,
    *,
    hyperparameter: str = "units",
    start: int = 16,
    factor: int = 2,
    most: int = 1024,
    trials: int = 8,
    epochs: int = EPOCHS,
    seeds: int = 5,
    level: float = 0.05,
    name: str | None = None,
    seed: int = 0,
    storage: str | Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    engine: str = "auto",
    target: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> Growth:
    """Double (`factor`) a width from `start` until the validation error stops improving beyond noise.

    Each width is tuned and repeated as an arm of `rheostat.compare`, and compared with the one before it by the same
    test. The first that is not better is tuned again with twice the trials, its weight decay and, where the network
    has it, dropout too; if that is better it is kept, else the smaller width. Test data are not looked at.

    Raises SettingError where the network does not read the hyperparameter; else as `rheostat.compare`.
    """
    space = space if isinstance(space, Space) else Space(space)
    if factor < 2 or start < 1 or most < start * factor:
        raise SettingError(
            f"start={start}, factor={factor}, most={most}: give whole numbers with factor 2 or more, so that a width "
            "between start and most is there to be tried."
        )
    _check_read(task, space, hyperparameter, start)
    task = replace(task, test=None)
    name = name or f"{task.name}-grow"
    bench = Bench(task, name, trials, seeds, seed, storage, workers, threads, engine, target or {}, tell)
    kept_width, kept = start, bench.run(_arm(space, hyperparameter, start, ("lr",), epochs))
    steps: list[Comparison] = []
    words: list[str] = []
    for width in _widths(start, factor, most):
        wider = bench.run(_arm(space, hyperparameter, width, ("lr",), epochs))
        steps.append(concluded(bench, [kept, wider], 0, level))
        words.append(_words(steps[-1], f"{hyperparameter}={width}"))
        if not _is_better(steps[-1]):
            break
        kept_width, kept = width, wider
    else:
        words.append(f"{hyperparameter}={kept_width} is the largest that was allowed; more may be better still.")
        return Growth(hyperparameter, kept_width, False, steps[-1].arms[1], tuple(steps), tuple(words))
    tuned = ("lr", *(n for n in REGULARISERS if n == "weight_decay" or _reads(task, space, n)))
    more = replace(bench, name=f"{name}-regularised", trials=2 * trials)
    tell(f"{', '.join(tuned)} are tuned together:")
    regularised = more.run(_arm(space, hyperparameter, width, tuned, epochs))
    steps.append(concluded(more, [kept, regularised], 0, level))
    words.append(_words(steps[-1], f"{hyperparameter}={width} with {' and '.join(tuned[1:])} tuned too"))
    better = _is_better(steps[-1])
    best = width if better else kept_width
    words.append(f"Use {hyperparameter}={best}{' with that regularisation' if better else ''}.")
    return Growth(hyperparameter, best, better, steps[-1].arms[int(better)], tuple(steps), tuple(words))


def _is_better(step: Comparison) -> bool:
    return step.arms[1].verdict is Verdict.BETTER


def _widths(start: int, factor: int, most: int) -> Iterator[int]:
    width = start * factor
    while width <= most:
        yield width
        width *= factor


def _arm(space: Space, name: str, width: int, tuned: tuple[str, ...], epochs: int) -> Arm:
    tuned = tuple(n for n in tuned if n != "lr" or n not in space.fixed)
    return Arm(name, width, design.arm_space(space, name, width, tuned), epochs)


def _check_read(task: Task, space: Space, name: str, width: int) -> None:
    if name not in design.reads(task, Config({**space.likely(), name: width})):
        known = [n for n in design.WIDTHS if n in design.reads(task, Config({**space.likely(), n: width}))]
        raise SettingError(f"The network reads no {name}: grow {' or '.join(known) or 'a width that it reads'}.")


def _reads(task: Task, space: Space, name: str) -> bool:
    return name in design.reads(task, Config({**space.likely(), name: 0.1}))


def _words(step: Comparison, label: str) -> str:
    """What a step found."""
    before, after = step.arms
    base = f"{step.varied}={before.value}"
    if after.verdict is Verdict.DIVERGED:
        return f"{label} diverged; {base} is kept."
    values = f"{step.metric} {number(after.estimate.value)} against {number(before.estimate.value)}"
    if _is_better(step):
        return f"{label} is better than {base} ({values})."
    how = "worse than" if after.verdict is Verdict.WORSE else "not better, beyond chance, than"
    return f"{label} is {how} {base} ({values}); {base} is kept."
