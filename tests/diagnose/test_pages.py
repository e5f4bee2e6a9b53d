"""The pages in docs/diagnose say what the modules say, and show what is there."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pathologies import pages
from benchmarks.pathologies.figure import pair
from rheostat.diagnose.base import HEALTHY
from rheostat.diagnose.catalogue import PATHOLOGIES
from rheostat.diagnose.observations import LabelledRun
from tests.diagnose.test_pathologies import RUNS, healthy

DOCS = Path(__file__).parents[2] / "docs"
MAKE = "Run `python -m benchmarks.pathologies.pages RUNS docs` again."


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_a_page_has_the_words_of_its_module(name: str) -> None:
    page = (DOCS / "diagnose" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(pages.text(PATHOLOGIES[name])), MAKE
    figure = DOCS / "diagnose" / f"{name}.svg"
    assert figure.exists() == (f"({name}.svg)" in page) == (pages.NO_EXAMPLE not in page)
    assert not figure.exists() or figure.stat().st_size < 15_000


def test_the_index_names_every_pathology_and_no_page_is_left_over() -> None:
    assert (DOCS / "diagnose.md").read_text(encoding="utf-8") == pages.index(), MAKE
    assert {path.stem for path in (DOCS / "diagnose").iterdir()} == set(PATHOLOGIES)


def test_examples_are_runs_with_the_label_or_in_which_the_rule_speaks(tmp_path: Path) -> None:
    runs = [
        LabelledRun("h", HEALTHY, healthy(), "digits", "mlp", "sgd"),
        LabelledRun("a", "lr_too_high", healthy(), "digits", "mlp", "sgd"),
        LabelledRun("b", "lr_too_high", RUNS["lr_too_high"], "digits", "mlp", "sgd"),
        LabelledRun("c", "diverged", RUNS["spikes"], "digits", "mlp", "sgd"),
        LabelledRun("d", "dead_units", RUNS["dead_units"], "adult", "mlp", "sgd"),  # nothing to show beside it
    ]
    found = pages.examples(runs)
    chosen = {name: example.sick.id for name, example in found.items()}
    assert chosen == {"lr_too_high": "b", "diverged": "c", "spikes": "c"}
    pages.write(runs, tmp_path)
    page = (tmp_path / "diagnose" / "spikes.md").read_text()
    assert "(spikes.svg)" in page and "`diverged`" in page
    assert pages.NO_EXAMPLE in (tmp_path / "diagnose" / "leak.md").read_text()
    assert not (tmp_path / "diagnose" / "leak.svg").exists()


@pytest.mark.parametrize("last", [3.0, np.nan, np.inf, 1e12])
def test_a_figure_is_well_formed_and_stays_in_its_panels(last: float) -> None:
    sound = {"train_loss": np.array([2.0, 1.0, 0.01]), "val_loss": np.array([2.0, np.nan, 1.0])}
    sick = {"train_loss": np.array([2.0, np.nan, last]), "val_loss": np.array([np.nan, 1.5, np.nan])}
    root = ET.fromstring(pair(("Sick & tired", "Healthy"), (sick, sound)))
    paths = [p.get("d", "") for p in root.iter("{http://www.w3.org/2000/svg}path") if "L" in p.get("d", "")]
    assert len(paths) == 4
    for path in paths:
        for point in path.removeprefix("M").split("L"):
            x, y = map(float, point.split())
            assert 0 <= x <= 340 and 0 <= y <= 230


def test_curves_without_a_value_make_an_empty_figure() -> None:
    nothing = {"train_loss": np.full(3, np.nan)}
    sound = {"train_loss": np.array([2.0, 1.0, 1.0])}
    assert ET.fromstring(pair(("a", "b"), (nothing, sound))) is not None
