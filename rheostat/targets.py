"""From what the user points at (a file, a built-in name, `file.py:object`) to a task and a space to tune it in."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import cloudpickle

from rheostat import families
from rheostat.data.base import Dataset, Form, Vocabulary
from rheostat.data.checks import examine
from rheostat.data.read import read
from rheostat.errors import DataError, SettingError, SpaceError, TaskError, unknown
from rheostat.families import Family
from rheostat.space import Space
from rheostat.train.task import Score, Task
from rheostat.train.translation import Bleu
from rheostat.types import Config


@dataclass(frozen=True)
class Target:
    """Something to tune, in `trials` trials of at most `epochs` epochs where the user names no others.

    `vocabularies` are those of its texts. With `likely_first` the likeliest configuration is tried before others.
    `final` replaces the scores of the task on held-out data, where more may be spent on them.
    """

    name: str
    task: Task
    space: Space
    notes: tuple[str, ...] = ()
    validation_size: int | None = None
    trials: int = 60
    epochs: int = 20
    vocabularies: tuple[Vocabulary, ...] = ()
    likely_first: bool = False
    final: Mapping[str, Score] = field(default_factory=dict)

    def first(self, space: Space, search: str) -> tuple[Config, ...]:
        """What to try before others in a space; nothing where a grid is gone through."""
        return (space.likely(),) if self.likely_first and search != "grid" else ()


def load_target(
    target: str,
    label: str | None = None,
    test: str | None = None,
    kind: str | None = None,
    device: str = "auto",
    arguments: Mapping[str, str] | None = None,
    model: str | None = None,
    tokens: str | None = None,
    vectors: str | None = None,
) -> Target:
    """The task and the default space of a target.

    `label` names the column to predict, or the language to translate into; `test` is a file of held-out data,
    `kind` is classification or regression (else it is inferred), `model` a family of networks (else the usual one),
    `tokens` what texts are read as, `vectors` a file of pretrained word vectors, and `arguments` are given to the
    function where the target is one. Raises DataError, TaskError, SettingError or SpaceError in words.
    """
    path, _, name = target.partition(".py:")
    if target.endswith(".py") or name:
        if model is not None:
            raise SettingError(f"--model {model}: {path} brings its own network.")
        return _from_python(Path(path if target.endswith(".py") else path + ".py"), name, dict(arguments or {}))
    if arguments:
        raise TaskError(f"--arg {next(iter(arguments))}: only a target like file.py:function takes arguments.")
    form = None if model is None else families.form_of(model)
    dataset = read(target, label=label, test=test, kind=kind, form=form, tokens=tokens, vectors=vectors)
    return from_dataset(dataset, device, model)


def from_dataset(dataset: Dataset, device: str = "auto", model: str | None = None) -> Target:
    """The family of networks for a data set, or the one named, in its default space."""
    family = families.choose(dataset, model)
    task = families.make_task(dataset, family, device)
    space = family.space(dataset)
    validation = dataset.validation
    examples = len(validation[0]) if isinstance(validation, tuple) else len(validation)
    in_examples = dataset.form in (Form.ROWS, Form.IMAGES, Form.TEXTS)
    return Target(
        dataset.name,
        task,
        space,
        (*dataset.notes, *examine(dataset), _chosen(family, space)),
        examples if in_examples else None,
        family.trials,
        family.epochs,
        dataset.vocabularies,
        True,
        {"bleu": Bleu(dataset.vocabularies[1], width=5)} if dataset.form is Form.PAIRS else {},
    )


def _chosen(family: Family, space: Space) -> str:
    """What is tuned, and why that network."""
    fixed = ", ".join(f"{name} {value}" for name, value in space.fixed.items())
    return (
        f"Tuning {family.title} (model {family.name}), the usual one for {family.forms[0]}: "
        f"{', '.join(space.tuned)}; fixed: {fixed}."
    )


def _from_python(path: Path, name: str, arguments: dict[str, str]) -> Target:
    module = _imported(path)
    name = name or "task"
    if name not in vars(module):
        public = [n for n, v in vars(module).items() if not n.startswith("_") and (callable(v) or isinstance(v, Task))]
        raise TaskError(unknown(f"object in {path}", name, public))
    found = vars(module)[name]
    if callable(found):
        try:
            inspect.signature(found).bind(**arguments)
        except TypeError as cause:
            raise TaskError(f"{path}:{name}{inspect.signature(found)}: {cause}. Give --arg NAME=VALUE.") from None
        found = found(**arguments)
    elif arguments:
        raise TaskError(f"{path}:{name} is not a function, so --arg {next(iter(arguments))} has nowhere to go.")
    task, space = found if isinstance(found, tuple) and len(found) == 2 else (found, vars(module).get("space"))
    if not isinstance(task, Task):
        raise TaskError(
            f"{path}:{name} gives a {type(task).__name__}; it must be a rheostat.Task, or a function that returns one "
            "(or a Task and a Space)."
        )
    if space is None:
        raise SpaceError(f"{path}: there is no space to tune in. Return (task, space), or define `space` beside it.")
    size = len(task.validation[0]) if isinstance(task.validation, tuple) else None
    return Target(path.stem, task, space if isinstance(space, Space) else Space(space), (), size)


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise DataError(
            f"There is no file {path} (in {Path.cwd()}). Give the path of a Python file, as FILE.py:OBJECT."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))  # so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as cause:  # the user's file may raise anything
        raise TaskError(f"{path} cannot be imported: {type(cause).__name__}: {cause}.") from cause
    cloudpickle.register_pickle_by_value(module)  # worker processes get it by value, not by its name
    return module
