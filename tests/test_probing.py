"""The probe commands, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rheostat import probing
from rheostat.cli import app
from rheostat.errors import SettingError, TaskError


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 3
    path = tmp_path_factory.mktemp("probe") / "blobs.npz"
    np.savez(path, X=rng.standard_normal((200, 6)) + 3 * np.eye(6)[y], y=y)
    return path


def run(*words: object) -> str:
    done = CliRunner().invoke(app, ["probe", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_lr(target: Path) -> None:
    printed = run("lr", target, "--set", "optimizer=sgd")
    assert "optimizer=sgd" in printed and "m largest stable" in printed
    assert "is a prior for it" in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 90
    curve, axis = (line for line in printed.splitlines() if line.startswith(("loss", "lr ")))
    assert curve.count("█") > 10 and axis.index("1e-7") == curve.index("█")


def test_init(target: Path) -> None:
    printed = run("init", target)
    assert printed.count("✓") == 4 and "hidden.0.linear" in printed
    found = json.loads(run("init", target, "--json"))
    assert found["good"] is True and found["target"] == "blobs" and found["config"]["optimizer"] == "adamw"


def test_batch(target: Path) -> None:
    printed = run("batch", target, "--memory", "4GB")
    words = " ".join(printed.split())
    assert "All 160 examples fit in one batch, within 4 GB" in words
    assert "The gradient noise scale is" in words and "updates per epoch" in words


def test_a_hyperparameter_that_nobody_reads(target: Path) -> None:
    with pytest.raises(TaskError, match="Unknown hyperparameter 'layrs'. Did you mean 'layers'"):
        run("init", target, "--set", "layrs=2")


@pytest.mark.parametrize("words", ["", "much", "-1GB", "1XB", "0"])
def test_sizes_of_memory(words: str) -> None:
    with pytest.raises(SettingError, match="give a size, such as 2GB"):
        probing.parse_bytes(words)


def test_a_curve_is_drawn_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    from rheostat.probe.learning_rate import Ramp, RangeTest, Spread

    ramp = Ramp((1e-3, 1e-2, 1e-1), (1.0, 0.5, 2.0), (1.0, 0.5, 2.0), 1.0, 0.5, 0.1)
    answer: Any = Spread(1e-2, 1e-2, 1e-2)
    lines = probing.drawn(RangeTest("sgd", 32, 1e-3, 1e-1, (ramp,), answer, answer, answer), columns=21)
    assert lines[0].startswith("loss  █") and lines[0].split()[1][10] == "▁"
    assert lines[1].split() == ["lr", "1e-3", "1e-2", "1e-1"]
    assert lines[2].index("m") == 16
    assert probing.drawn(RangeTest("sgd", 32, 1e-3, 1e-1, (ramp,), None, None, None), columns=21)[2:] == [""]
