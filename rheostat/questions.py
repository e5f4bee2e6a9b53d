"""Ready-made questions: what the article claims that Rheostat grew from, to be asked of anyone's data.

They stand in `questions.toml`, whose head explains the fields.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from rheostat.arms import reads
from rheostat.errors import SettingError, unknown
from rheostat.families import FAMILIES, Build
from rheostat.space import Space
from rheostat.train.held_out import examples
from rheostat.train.task import Task
from rheostat.types import Config, Scalar

OWN = "own"  # a network of the user's
OF_THE_TRAINER = ("batch_size", "optimizer", "schedule")
WIDTH, LABEL = 88, 15  # columns of what is printed, and of the labels at its left


@dataclass(frozen=True)
class Varies:
    """The hyperparameter of a question in some families of networks."""

    families: tuple[str, ...]
    name: str
    values: tuple[Scalar, ...]
    reference: Scalar


@dataclass(frozen=True)
class Question:
    """One question; `questions.toml` explains the fields."""

    name: str
    asks: str
    article: str
    source: str
    reading: str
    varies: tuple[Varies, ...]
    lr: tuple[str, ...] = ("tuned",)

    def for_network(self, task: Task, space: Space) -> Varies | None:
        """What to vary in the network of a task; None where it has no such hyperparameter.

        Batch sizes that the data do not fill are left out.
        """
        family = family_of(task)
        varies = next((v for v in self.varies if family in v.families), None)
        if varies is None:
            return None
        if varies.name in OF_THE_TRAINER:
            return _fewer(varies, task) if varies.name == "batch_size" else varies
        given = Config({**space.likely(), varies.name: varies.reference})
        return varies if varies.name in reads(task, given) else None


def questions() -> Mapping[str, Question]:
    """All questions, by name."""
    return _read()


def find(name: str) -> Question:
    """The question of this name. Raises SettingError, naming all there are."""
    if name not in _read():
        raise SettingError(unknown("question", name, _read()))
    return _read()[name]


def applied(name: str, task: Task, space: Space) -> tuple[Question, Varies]:
    """A question and what to vary. Raises SettingError where it does not fit the network, naming those that do."""
    question = find(name)
    varies = question.for_network(task, space)
    if varies is None:
        fitting = [q.name for q in _read().values() if q.for_network(task, space) is not None]
        raise SettingError(
            f"The question {name!r} does not fit this network ({family_of(task)}). These do: {', '.join(fitting)}."
        )
    return question, varies


def family_of(task: Task) -> str:
    """The family of a task's network; `own` for one of the user's."""
    if isinstance(task.model, Build):
        for family in FAMILIES:
            if family.network is task.model.network:
                return family.name
    return OWN


def explain(name: str | None = None) -> str:
    """What a question is about and how to read its answer, as text for a terminal of 88 columns; without a name, all
    questions, one to a line. Raises SettingError for an unknown name."""
    if name is None:
        return "\n".join(f"{q.name:<18}{q.asks}" for q in _read().values())
    q = find(name)
    rows = [("The article", q.article), ("Source", q.source), ("To read it", q.reading)]
    lines = [textwrap.fill(f"{label:<{LABEL}}{text}", WIDTH, subsequent_indent=" " * LABEL) for label, text in rows]
    return "\n".join([f"{q.name}: {q.asks}", *lines])


def _fewer(varies: Varies, task: Task) -> Varies:
    count = 0 if callable(task.train) else examples(task.train)
    values = tuple(v for v in varies.values if not isinstance(v, int) or not count or v < count)
    return Varies(varies.families, varies.name, values, varies.reference if varies.reference in values else values[0])


@cache
def _read() -> Mapping[str, Question]:
    text = resources.files("rheostat").joinpath("questions.toml").read_text(encoding="utf-8")
    return {name: _question(name, table) for name, table in tomllib.loads(text).items()}


def _question(name: str, table: Mapping[str, Any]) -> Question:
    varies = tuple(
        Varies(tuple(part["families"]), part["name"], tuple(part["values"]), part["reference"])
        for part in table["varies"]
    )
    words = {key: " ".join(table[key].split()) for key in ("asks", "article", "source", "reading")}
    return Question(name, **words, varies=varies, lr=tuple(table.get("lr", ("tuned",))))
