"""What `rheostat compare` and `rheostat grow` do and print."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rheostat.analysis.compared import Comparison
from rheostat.commands import SpaceChanges, parse_value
from rheostat.comparing import run_compare
from rheostat.errors import SettingError
from rheostat.growing import grow as grow_task
from rheostat.questions import find
from rheostat.show import comparison as shown
from rheostat.show import text
from rheostat.space import Space
from rheostat.targets import Target, load_target
from rheostat.types import Scalar

WIDTH = 88


def compare(
    *,
    target: Mapping[str, Any],
    fixed: Mapping[str, Scalar],
    vary: Mapping[str, str],
    nuisance: str | None,
    question: str | None,
    reference: str | None,
    out: Path | None,
    as_json: bool,
    epochs: int | None,
    **settings: Any,
) -> None:
    """Compare values of a hyperparameter, and print the answer."""
    if question is not None:
        find(question)  # before anything is read
    loaded, space = _loaded(target, fixed, as_json)
    values = {name: [parse_value(word) for word in words.split(",")] for name, words in vary.items()}
    comparisons = run_compare(
        loaded.task,
        space,
        vary=values or None,
        question=question,
        nuisance=None if nuisance is None else nuisance.split(","),
        reference=None if reference is None else parse_value(reference),
        epochs=loaded.epochs if epochs is None else epochs,
        target=target,
        tell=_teller(as_json),
        **settings,
    )
    if out is not None:
        out.write_text(shown.page(comparisons), encoding="utf-8")
    if as_json:
        text.print_json([comparison.describe() for comparison in comparisons])
        return
    for comparison in comparisons:
        _show(comparison)
    if question is not None:
        text.show("")
        _fill(f"The article: {find(question).article} ({find(question).source})")
        _fill(f"To read it: {find(question).reading}")
    text.show(f"\nplot  {out}" if out is not None else "\nplot  --out FILE.html draws it; nothing is trained again")


def grow(
    *,
    target: Mapping[str, Any],
    fixed: Mapping[str, Scalar],
    hyperparameter: str | None,
    as_json: bool,
    epochs: int | None,
    **settings: Any,
) -> None:
    """Grow a width while that helps, and print every step."""
    loaded, space = _loaded(target, fixed, as_json)
    names = [name for name in ("units", "channels", "hidden") if name in space.tuned or name in space.fixed]
    if hyperparameter is None and not names:
        raise SettingError("Which width shall grow? The space has none of units, channels, hidden: give --width NAME.")
    growth = grow_task(
        loaded.task,
        space,
        hyperparameter=hyperparameter or names[0],
        epochs=loaded.epochs if epochs is None else epochs,
        target=target,
        tell=_teller(as_json),
        **settings,
    )
    if as_json:
        text.print_json(growth.describe())
        return
    text.show("")
    for words in growth.words:
        _fill(words)


def _loaded(target: Mapping[str, Any], fixed: Mapping[str, Scalar], as_json: bool) -> tuple[Target, Space]:
    """A target, with its notes shown, and its space with some hyperparameters fixed."""
    loaded = load_target(**target)
    for note in loaded.notes:
        text.show(note, sys.stderr if as_json else sys.stdout)
    return loaded, SpaceChanges(fixed=fixed).apply(loaded.space)


def _teller(as_json: bool) -> Any:
    out = sys.stderr if as_json else sys.stdout
    return lambda words: text.show(words, out)


def _show(comparison: Comparison) -> None:
    text.show("")
    text.show(shown.table(comparison))
    text.show("")
    _fill(shown.sentence(comparison))
    for note in shown.notes(comparison):
        _fill(note)


def _fill(words: str) -> None:
    text.show(textwrap.fill(words, WIDTH, subsequent_indent="  "))
