"""What the documents show is run, and what they link to exists."""

from __future__ import annotations

import doctest
import gzip
import importlib
import pkgutil
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rheostat

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(module.name for module in pkgutil.walk_packages(rheostat.__path__, "rheostat."))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RHEOSTAT_STORAGE", str(tmp_path / "studies.db"))


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda p: p.name)
def test_the_examples_of_a_page_run(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S)):
        exec(compile(block, f"{page.name}, example {number}", "exec"), namespace)


def test_the_examples_in_the_code_hold() -> None:
    results = [doctest.testmod(importlib.import_module(name)) for name in MODULES]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_the_two_commands_stand_in_the_readme_as_ci_runs_them() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert "pip install -c constraints.txt -e . && rheostat tune digits\n" in readme
    assert "pip install -c constraints.txt -e '.[test]' && pytest\n" in readme
    assert "pip install -q -c constraints.txt -e . && rheostat tune digits\n" in ci


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_tune_and_an_own_loop_give_the_same_study(tmp_path: Path) -> None:
    """The CNN of the example on made-up images: every curve of every trial, bit for bit."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 360)
    images = rng.integers(0, 100, (360, 28, 28))
    images[np.arange(360), labels * 2, :] += 150
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    example = runpy.run_path(str(ROOT / "examples" / "fashion_mnist.py"))
    task = example["task"](str(tmp_path), "360")
    tuned = rheostat.tune(task, example["space"], trials=5, epochs=3, workers=1, progress="none")
    own = example["tune_with_own_loop"](tmp_path, 360, trials=5, epochs=3, workers=1)
    assert [t.config for t in tuned.trials] == [t.config for t in own.trials]
    curves = [[trial.curve("val_error") for trial in study.trials] for study in (tuned, own)]
    assert curves[0] == curves[1] and len({tuple(curve) for curve in curves[0]}) > 1
    assert max(trial.epochs for trial in tuned.trials) == 3
