"""The search space: what may be tuned, on which scale, under which condition, and what is likely.

Every hyperparameter maps its values to the unit interval and back. `decode(encode(v)) == v` holds exactly for
every value that `decode` gives: floats are rounded to ten significant digits, so that they survive the
logarithm, text and JSON unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SpaceError, unknown
from rheostat.types import Config, Scalar, fingerprint

Conditions = Mapping[str, Sequence[Scalar]]
SIGNIFICANT_DIGITS = 10


@dataclass(frozen=True)
class Prior:
    """The most likely value, and how sure: the probability that the best lies near it.

    *Near* is within an eighth of the range on either side, on the hyperparameter's own scale; for a `Choice`
    it is the value itself. A prior never excludes a value.
    """

    value: Scalar
    sure: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sure < 1:
            raise SpaceError(f"prior: sure={self.sure!r} must be between 0 and 1; 0.5 is a fair belief.")


def _as_prior(prior: Prior | Scalar) -> Prior | None:
    return prior if isinstance(prior, Prior) or prior is None else Prior(prior)


def _as_conditions(when: Conditions | None) -> dict[str, tuple[Scalar, ...]]:
    """`when={"optimizer": ["sgd"], "layers": range(2, 5)}`; a single value may stand without its list."""
    conditions: dict[str, tuple[Scalar, ...]] = {}
    for parent, values in (when or {}).items():
        conditions[parent] = (
            tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)
        )
        if not conditions[parent]:
            raise SpaceError(f"when={{{parent!r}: []}} is never true: name at least one value of {parent!r}.")
    return conditions


def _round(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}")


@dataclass(frozen=True)
class _Peak:
    """A normal distribution on the unit interval, cut off at its ends."""

    center: float
    width: float

    @classmethod
    def around(cls, center: float, sure: float) -> _Peak | None:
        """The peak with mass `sure` within 1/8 of its centre; None (uniform) if `sure` asks for no peak."""
        low, high = 0.01, 4.0
        if cls(center, high).near() >= sure:
            return None
        for _ in range(50):  # bisection: the mass falls as the width grows
            middle = math.sqrt(low * high)
            low, high = (middle, high) if cls(center, middle).near() > sure else (low, middle)
        return cls(center, low)

    @property
    def _ends(self) -> tuple[NormalDist, float, float]:
        normal = NormalDist(self.center, self.width)
        return normal, normal.cdf(0.0), normal.cdf(1.0)

    def near(self) -> float:
        normal, left, right = self._ends
        return (normal.cdf(min(self.center + 0.125, 1.0)) - normal.cdf(max(self.center - 0.125, 0.0))) / (right - left)

    def quantile(self, probability: float) -> float:
        normal, left, right = self._ends
        inside = left + probability * (right - left)
        return min(max(normal.inv_cdf(min(max(inside, 1e-12), 1 - 1e-12)), 0.0), 1.0)

    def density(self, unit: float) -> float:
        normal, left, right = self._ends
        return normal.pdf(unit) / (right - left)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class _Numeric:
    """What `Float` and `Int` share: a range with a scale."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    prior: Any = None
    when: Any = None

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if not _is_number(getattr(self, name)):
                raise SpaceError(f"{self!r}: {name} must be a finite number.")
        if self.low >= self.high:
            raise SpaceError(f"{self!r}: low must be less than high; write the value alone to fix it.")
        if self.log and self.low <= 0:
            raise SpaceError(f"{self!r}: a log scale needs low > 0.")
        if self.step is not None and (not _is_number(self.step) or not 0 < self.step <= self.high - self.low):
            raise SpaceError(f"{self!r}: step must be positive and at most high - low.")
        object.__setattr__(self, "when", _as_conditions(self.when))
        object.__setattr__(self, "prior", _as_prior(self.prior))
        if self.prior is not None:
            self.check("prior", self.prior.value)

    def check(self, name: str, value: Any) -> Any:
        """The value as it is stored. Raises SpaceError where it is not allowed."""
        if not _is_number(value) or not self.low <= value <= self.high:
            raise SpaceError(f"{name}={value!r} is not allowed: give a number from {self.low:g} to {self.high:g}.")
        return float(value)

    @cached_property
    def _peak(self) -> _Peak | None:
        return None if self.prior is None else _Peak.around(self.encode(self.prior.value), self.prior.sure)

    def encode(self, value: Any) -> float:
        raise NotImplementedError

    def decode(self, unit: float) -> Any:
        raise NotImplementedError

    def quantile(self, probability: float) -> float:
        """The unit value below which the prior holds this probability; uniform without a prior."""
        return self._peak.quantile(probability) if self._peak else probability

    def density(self, unit: float) -> float:
        """The prior's density on the unit interval; 1 everywhere without a prior."""
        return self._peak.density(unit) if self._peak else 1.0


@dataclass(frozen=True)
class Float(_Numeric):
    """A real number from `low` to `high`, both included.

    Raises SpaceError for an empty range, or a log scale that reaches zero.

    >>> lr = Float(1e-5, 1e-1, log=True, prior=1e-3)
    >>> lr.decode(0.5), lr.encode(0.001)
    (0.001, 0.5)
    """

    @cached_property
    def _steps(self) -> int:
        return int((self.high - self.low) / (self.step or 1) + 1e-9)

    def encode(self, value: Any) -> float:
        if self.log:
            unit = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            unit = (value - self.low) / (self.high - self.low)
        return min(max(unit, 0.0), 1.0)

    def decode(self, unit: float) -> float:
        value = self.low * (self.high / self.low) ** unit if self.log else self.low + unit * (self.high - self.low)
        if self.step is not None:
            value = self.low + min(round((value - self.low) / self.step), self._steps) * self.step
        return min(max(_round(value), float(self.low)), float(self.high))


@dataclass(frozen=True)
class Int(_Numeric):
    """A whole number from `low` to `high`, both included; each has its own stretch of the unit interval.

    >>> units = Int(16, 512, log=True)
    >>> units.decode(0.0), units.decode(1.0), units.decode(units.encode(100))
    (16, 512, 100)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if value is not None and value != int(value):
                raise SpaceError(f"{self!r}: {name} must be a whole number; use Float for others.")

    def check(self, name: str, value: Any) -> Any:
        super().check(name, value)
        if value != int(value):
            raise SpaceError(f"{name}={value!r} is not allowed: give a whole number.")
        return int(value)

    @cached_property
    def _edges(self) -> tuple[float, float]:
        """The range widened by half a step, so that the first and last value are as likely as the others."""
        half = (self.step or 1) / 2
        last = self.low + (self.high - self.low) // (self.step or 1) * (self.step or 1)
        return (max(self.low - half, self.low / 2) if self.log else self.low - half), last + half

    def encode(self, value: Any) -> float:
        left, right = self._edges
        unit = math.log(value / left) / math.log(right / left) if self.log else (value - left) / (right - left)
        return min(max(unit, 0.0), 1.0)

    def decode(self, unit: float) -> int:
        left, right = self._edges
        real = left * (right / left) ** unit if self.log else left + unit * (right - left)
        step = int(self.step or 1)
        index = math.floor((real - self.low) / step + 0.5)
        last = int((self.high - self.low) // step)
        return int(self.low) + min(max(index, 0), last) * step


@dataclass(frozen=True)
class Choice:
    """One of several values with no order: texts, numbers, True and False, or None.

    >>> Choice(["adam", "sgd"]).decode(0.75)
    'sgd'
    """

    values: Any
    prior: Any = None
    when: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not isinstance(self.values, Iterable):
            raise SpaceError(f"Choice({self.values!r}): give a list of values, such as Choice(['adam', 'sgd']).")
        values = tuple(self.values)
        object.__setattr__(self, "values", values)
        if not values:
            raise SpaceError("Choice([]) has no values: give at least one.")
        for value in values:
            if not isinstance(value, bool | int | float | str | None):
                raise SpaceError(f"Choice: {value!r} is not a number, text, True, False or None; name it by a text.")
        if len({(type(value), value) for value in values}) < len(values):
            raise SpaceError(f"Choice({list(values)!r}) names a value twice.")
        object.__setattr__(self, "when", _as_conditions(self.when))
        object.__setattr__(self, "prior", _as_prior(self.prior))
        if self.prior is not None:
            self.check("prior", self.prior.value)

    def _index(self, value: object) -> int | None:
        same = (i for i, v in enumerate(self.values) if v == value and isinstance(v, bool) == isinstance(value, bool))
        return next(same, None)

    def check(self, name: str, value: Any) -> Any:
        """The value as it is stored. Raises SpaceError where it is not allowed."""
        if self._index(value) is None:
            raise SpaceError(unknown(f"value for {name}:", value, self.values))
        return value

    def encode(self, value: Any) -> float:
        index = self._index(value)
        assert index is not None, f"{value!r} was not checked"
        return (index + 0.5) / len(self.values)

    def decode(self, unit: float) -> Scalar:
        value: Scalar = self.values[min(int(unit * len(self.values)), len(self.values) - 1)]
        return value

    @cached_property
    def probabilities(self) -> tuple[float, ...]:
        """The prior probability of each value."""
        n = len(self.values)
        if self.prior is None or n == 1 or self.prior.sure <= 1 / n:
            return (1 / n,) * n
        likely = self._index(self.prior.value)
        return tuple(self.prior.sure if i == likely else (1 - self.prior.sure) / (n - 1) for i in range(n))

    def quantile(self, probability: float) -> float:
        for index, mass in enumerate(self.probabilities):
            if probability < mass or index == len(self.values) - 1:
                return (index + min(probability / mass, 1.0)) / len(self.values)
            probability -= mass
        raise AssertionError("unreachable")

    def density(self, unit: float) -> float:
        return self.probabilities[min(int(unit * len(self.values)), len(self.values) - 1)] * len(self.values)


Hyperparameter = Float | Int | Choice


@dataclass(frozen=True)
class Space(Mapping[str, Hyperparameter]):
    """Named hyperparameters, some of them under conditions, and fixed values.

    Raises SpaceError for an unknown parent, a condition that can never hold, or a circle of conditions.

    >>> space = Space(optimizer=Choice(["adam", "sgd"]), momentum=Float(0.5, 0.99, when={"optimizer": "sgd"}),
    ...               batch_size=32)
    >>> space.decode([0.0, 0.5])
    Config(optimizer='adam', batch_size=32)
    """

    tuned: Mapping[str, Hyperparameter] = field(init=False)
    fixed: Mapping[str, Scalar] = field(init=False)

    def __init__(self, parts: Mapping[str, Hyperparameter | Scalar] | None = None, /, **named: Any) -> None:
        everything = {**(parts or {}), **named}
        tuned = {n: v for n, v in everything.items() if isinstance(v, Float | Int | Choice)}
        fixed = {n: v for n, v in everything.items() if n not in tuned}
        for name, value in fixed.items():
            if not isinstance(value, bool | int | float | str | None):
                raise SpaceError(
                    f"{name}={value!r}: give Float, Int, Choice, or a fixed number, text, True, False or None."
                )
        object.__setattr__(self, "tuned", _parents_first(tuned, fixed))
        object.__setattr__(self, "fixed", fixed)

    def __getitem__(self, name: str) -> Hyperparameter:
        return self.tuned[name]

    def __iter__(self) -> Any:
        return iter(self.tuned)

    def __len__(self) -> int:
        return len(self.tuned)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.describe() == other.describe()

    def is_active(self, name: str, values: Mapping[str, Scalar]) -> bool:
        """Whether `name` has a value beside these. A child of an inactive parent is inactive."""
        return all(p in values and contains(allowed, values[p]) for p, allowed in self.tuned[name].when.items())

    def decode(self, unit: Sequence[float] | NDArray[np.float64], prior: bool = False) -> Config:
        """The configuration at a point of the unit cube, shape (len(space),).

        With `prior`, the point holds probabilities and priors bend it: uniform points then follow the priors.
        """
        values: dict[str, Scalar] = {}
        for name, u in zip(self.tuned, unit, strict=True):
            if self.is_active(name, {**self.fixed, **values}):
                part = self.tuned[name]
                values[name] = part.decode(part.quantile(float(u)) if prior else float(u))
        return Config({**values, **self.fixed})

    def encode(self, config: Mapping[str, Scalar]) -> NDArray[np.float64]:
        """The point of the unit cube, shape (len(space),); NaN where a hyperparameter is not active."""
        return np.array([self.tuned[name].encode(config[name]) if name in config else math.nan for name in self.tuned])

    def sample(self, rng: np.random.Generator, n: int = 1) -> list[Config]:
        """`n` independent configurations drawn from the priors."""
        return [self.decode(point, prior=True) for point in rng.random((n, len(self)))]

    def likely(self) -> Config:
        """The likeliest configuration: of each prior its value, without a prior the middle."""
        values: dict[str, Scalar] = {}
        for name, part in self.tuned.items():
            if self.is_active(name, {**self.fixed, **values}):
                values[name] = part.decode(0.5) if part.prior is None else part.prior.value
        return Config({**values, **self.fixed})

    def complete(self, values: Mapping[str, Scalar]) -> Config:
        """A checked configuration from the user's values: fixed ones are filled in.

        Raises SpaceError for an unknown name, a value out of range, one that a condition switches off, or one missing.
        """
        for name in values:
            if name not in self.tuned and name not in self.fixed:
                raise SpaceError(unknown("hyperparameter", name, [*self.tuned, *self.fixed]))
        for name, fixed in self.fixed.items():
            if name in values and values[name] != fixed:
                raise SpaceError(f"{name}={values[name]!r} is not allowed: the space fixes it to {fixed!r}.")
        chosen: dict[str, Scalar] = {}
        for name, part in self.tuned.items():
            active = self.is_active(name, {**self.fixed, **chosen})
            if active and name not in values:
                raise SpaceError(f"No value for {name!r}: give one, it is tuned here.")
            if not active and name in values:
                raise SpaceError(
                    f"{name}={values[name]!r} has no effect here: it exists only when {_words(part.when)}."
                )
            if active:
                chosen[name] = part.check(name, values[name])
        return Config({**chosen, **self.fixed})

    def describe(self) -> dict[str, dict[str, Any]]:
        """The space as JSON-like values; `Space.from_description` reads it back."""
        return {
            **{name: _describe(part) for name, part in self.tuned.items()},
            **{name: {"type": "fixed", "value": value} for name, value in self.fixed.items()},
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Mapping[str, Any]]) -> Space:
        """The space that `describe` described."""
        return cls({name: part_from_description(name, part) for name, part in description.items()})

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits, equal for equal spaces whatever the order of the names."""
        return fingerprint(self.describe())

    def __repr__(self) -> str:
        parts = {**self.tuned, **self.fixed}
        return f"Space({', '.join(f'{name}={value!r}' for name, value in parts.items())})"


def contains(allowed: Sequence[Scalar], value: Scalar) -> bool:
    """Whether a value is one of these; a truth value is not the number 0 or 1."""
    return any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed)


def _words(when: Conditions) -> str:
    return " and ".join(f"{p} is {' or '.join(map(repr, values))}" for p, values in when.items())


def _parents_first(tuned: Mapping[str, Hyperparameter], fixed: Mapping[str, Scalar]) -> dict[str, Hyperparameter]:
    """Sorted so that parents stand before children; checks every condition on the way."""
    for name, part in tuned.items():
        for parent, allowed in part.when.items():
            if parent not in tuned and parent not in fixed:
                raise SpaceError(f"{name}: when: " + unknown("hyperparameter", parent, [*tuned, *fixed]))
            if parent in tuned:
                for value in allowed:
                    tuned[parent].check(f"{name}: when {parent}", value)
    ordered: dict[str, Hyperparameter] = {}
    while len(ordered) < len(tuned):
        ready = [n for n in tuned if n not in ordered and all(p in ordered or p in fixed for p in tuned[n].when)]
        if not ready:
            circle = sorted(set(tuned) - set(ordered))
            raise SpaceError(f"The conditions of {', '.join(circle)} form a circle: one of them must stand alone.")
        ordered[ready[0]] = tuned[ready[0]]  # one at a time keeps the order in which the user wrote them
    return ordered


def _describe(part: Hyperparameter) -> dict[str, Any]:
    if isinstance(part, Choice):
        described: dict[str, Any] = {"type": "choice", "values": list(part.values)}
    else:
        described = {"type": "int" if isinstance(part, Int) else "float", "low": part.low, "high": part.high}
        described |= {"log": part.log} if part.log else {}
        described |= {"step": part.step} if part.step is not None else {}
    if part.prior is not None:
        described["prior"] = {"value": part.prior.value, "sure": part.prior.sure}
    if part.when:
        described["when"] = {parent: list(values) for parent, values in part.when.items()}
    return described


def part_from_description(name: str, description: Mapping[str, Any]) -> Hyperparameter | Scalar:
    """What `Space.describe` said of one name. Raises SpaceError for fields that are not known."""
    kinds: dict[str, Any] = {"float": Float, "int": Int, "choice": Choice}
    fields = dict(description)
    kind = fields.pop("type", None)
    if kind == "fixed":
        value: Scalar = fields["value"]
        return value
    if kind not in kinds:
        raise SpaceError(f"{name}: " + unknown("type", kind, [*kinds, "fixed"]))
    if isinstance(fields.get("prior"), Mapping):
        fields["prior"] = Prior(**fields["prior"])
    try:
        part: Hyperparameter = kinds[kind](**fields)
    except TypeError as error:
        raise SpaceError(f"{name}: {error}. Known: low, high, log, step, values, prior, when.") from None
    return part
