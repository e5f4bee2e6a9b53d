"""What a comparison found, to be read and shown; values in the user's own direction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rheostat.analysis.comparison import Difference, Estimate, Verdict
from rheostat.types import Config, Scalar


@dataclass(frozen=True)
class ArmResult:
    """One value of the hyperparameter that was compared.

    `config` is the best configuration, None where no trial gave a value, and `estimate` the mean over its `repeats`,
    one for each seed and NaN where training diverged. `difference` is to the reference. `tuning` holds what was
    tried, with validation values (NaN: diverged), `wider` of them beyond the budget because the best lay at the end
    of what had been tried. `seconds` is how long one training took, `memory_bytes` what it needed.
    """

    value: Scalar
    verdict: Verdict
    estimate: Estimate
    difference: Difference | None = None
    config: Config | None = None
    repeats: tuple[float, ...] = ()
    tuning: tuple[tuple[Config, float], ...] = ()
    wider: int = 0
    epochs: int = 0
    parameters: int = 0
    seconds: float = math.nan
    seconds_per_epoch: float = math.nan
    memory_bytes: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def lr(self) -> float | None:
        """The tuned learning rate; None where the optimiser's own default is used."""
        return None if self.config is None else self.config.get("lr")

    @property
    def diverged(self) -> int:
        """How many repeats did."""
        return sum(map(math.isnan, self.repeats))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values."""
        difference = None if self.difference is None else asdict(self.difference)
        tuning = [{"config": dict(config), "value": value} for config, value in self.tuning]
        return {
            **{name: getattr(self, name) for name in ("value", "epochs", "parameters", "seconds", "seconds_per_epoch")},
            **{name: getattr(self, name) for name in ("memory_bytes", "wider", "lr", "diverged")},
            "verdict": str(self.verdict),
            "mean": self.estimate.value,
            "low": self.estimate.low,
            "high": self.estimate.high,
            "difference": difference,
            "config": None if self.config is None else dict(self.config),
            "repeats": list(self.repeats),
            "tuning": tuning,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Comparison:
    """The arms, in the order of their values; `arms[reference]` is what the others are compared with.

    `metric` is what they are judged by, such as error, on what `judged_on` says. `nuisance` are the hyperparameters
    that were tuned for each arm in `trials` trials, `fixed` those that stayed as they are; `lr` says how the learning
    rate was chosen (see `rheostat.compare`). `equal` is what arms have equal: epochs, seconds or parameters.
    """

    name: str
    varied: str
    arms: tuple[ArmResult, ...]
    reference: int
    metric: str
    direction: str
    judged_on: str
    nuisance: tuple[str, ...]
    fixed: Mapping[str, Scalar]
    trials: int
    seeds: int
    epochs: int
    equal: str = "epochs"
    lr: str = "tuned"
    level: float = 0.05
    memory: str = "parameters, gradients and optimiser state"
    question: str = ""
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, value: Scalar) -> ArmResult:
        """The arm of a value. Raises KeyError for one that was not compared."""
        for arm in self.arms:
            if arm.value == value and isinstance(arm.value, bool) == isinstance(value, bool):
                return arm
        raise KeyError(value)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values, described in docs/compare.md."""
        names = ("name", "varied", "metric", "direction", "judged_on", "trials", "seeds", "epochs", "equal", "lr")
        return {
            **{name: getattr(self, name) for name in (*names, "level", "memory", "question")},
            "reference": self.arms[self.reference].value,
            "nuisance": list(self.nuisance),
            "fixed": dict(self.fixed),
            "notes": list(self.notes),
            "arms": [arm.describe() for arm in self.arms],
        }
