"""Bad input through the doors that users use: a paragraph that helps, exit code not 0, and nothing recorded is lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rheostat
from rheostat import cli
from rheostat.types import Status

Run = Callable[..., tuple[int, str, str]]

CSV = "size,colour,price\n" + "".join(f"{i % 7},{'red' if i % 3 else 'blue'},{i % 2}\n" for i in range(60))
TASK = """
import torch
from torch import nn
from rheostat import Float, Space, Task

x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] > 0).long()
space = Space(lr=Float(1e-3, 1.0, log=True))
def network(config): return nn.Linear(4, 2)
task = Task(network, (x[:40], y[:40]), (x[40:], y[40:]))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `rheostat` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RHEOSTAT_STORAGE", str(tmp_path / "studies.db"))
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rheostat", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


QUICK = ("--trials", "3", "--epochs", "1", "--workers", "1")


def paragraph(code: int, error: str, *words: str) -> None:
    assert code != 0
    assert "Traceback" not in error and "\n\n" not in error.strip()
    assert len(error) > 40, error
    for word in words:
        assert word in error, error


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("t.csv", CSV, ("--target", "prise"), ["prise", "price"]),
        ("t.csv", CSV, (), ["--target", "price"]),
        ("t.csv", CSV, ("--target", "9"), ["9", "3"]),
        ("t.csv", "", ("--target", "price"), ["t.csv", "empty"]),
        ("t.csv", "size,price\n", ("--target", "price"), ["t.csv"]),
        ("t.csv", CSV.replace(",0\n", ",1\n"), ("--target", "price"), ["price", "the same label"]),
        ("t.csv", "a,b\n" + "1,x\n2,y\n" * 2, ("--target", "b"), ["4", "rows"]),
        ("t.csv", CSV + "1,red\n", ("--target", "price"), ["62"]),
        ("t.csv", "a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(300)) + "x7,1\n", ("--target", "b"), ["x7", "a"]),
        ("t.csv", "a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(60)) + "inf,1\n", ("--target", "b"), ["inf"]),
        ("t.csv", "a,b\n" + "".join(f"{i},name{i}\n" for i in range(60)), ("--target", "b"), ["b"]),
        ("t.xlsx", "PK", ("--target", "b"), [".xlsx", ".csv"]),
        ("t.npz", "no archive", (), ["t.npz"]),
    ],
)
def test_files_that_cannot_be_tuned_on(
    run: Run, tmp_path: Path, name: str, content: str, options: tuple[str, ...], words: list[str]
) -> None:
    (tmp_path / name).write_text(content)
    code, _, error = run("tune", name, *options, *QUICK)
    paragraph(code, error, *words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.array([[1.0, np.nan]] * 20), "y": np.arange(20) % 2}, ["NaN"]),
        ({"x": np.array([[1.0, np.inf]] * 20), "y": np.arange(20) % 2}, ["inf"]),
        ({"x": np.zeros((20, 2)), "y": np.arange(19) % 2}, ["20", "19"]),
        ({"a": np.zeros((20, 2)), "b": np.arange(20)}, ["a", "b"]),
        ({"x": np.array([["a", "b"]] * 20), "y": np.arange(20) % 2}, ["must be numbers"]),
    ],
)
def test_arrays_that_cannot_be_tuned_on(run: Run, arrays: dict[str, Any], words: list[str]) -> None:
    np.savez("t.npz", **arrays)
    code, _, error = run("tune", "t.npz", *QUICK)
    paragraph(code, error, *words)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nothing.csv", ["nothing.csv"]),
        ("digts", ["digts", "digits"]),
        (".", ["."]),
        ("nothing.py:task", ["nothing.py"]),
        ("t.py:tsk", ["tsk", "task"]),
        ("t.py:x", ["Tensor", "rheostat.Task"]),
        ("broken.py:task", ["broken.py", "SyntaxError"]),
        ("raises.py", ["raises.py", "ZeroDivisionError"]),
        ("spaceless.py", ["space"]),
        ("t.py:needs", ["data", "--arg"]),
    ],
)
def test_targets_that_are_none(run: Run, tmp_path: Path, target: str, words: list[str]) -> None:
    (tmp_path / "t.py").write_text(TASK + "\ndef needs(data): return task\n")
    (tmp_path / "broken.py").write_text("def task(:\n")
    (tmp_path / "raises.py").write_text("task = 1 / 0\n")
    (tmp_path / "spaceless.py").write_text(TASK.replace("space = Space", "other = Space"))
    code, _, error = run("tune", target, *QUICK)
    paragraph(code, error, *words)


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "leraning_rate=0.1"), ["leraning_rate", "Neither the trainer nor the model"]),
        (("--set", "lr=-0.1"), ["lr=-0.1", "greater than 0"]),
        (("--set", "lr=0"), ["lr", "greater than 0"]),
        (("--set", "lr"), ["NAME=VALUE"]),
        (("--set", "batch_size=5000"), ["5000", "1437"]),
        (("--set", "optimizer=adm"), ["adm", "adam"]),
        (("--set", "activation=rleu"), ["rleu", "relu"]),
        (("--set", "dropout=1.5"), ["dropout=1.5"]),
        (("--vary", "lr=1..0.1"), ["low must be less than high"]),
        (("--vary", "units=16...x"), ["--vary"]),
        (("--space", "none.toml"), ["none.toml"]),
        (("--space", "bad.toml"), ["bad.toml", "TOML"]),
        (("--trials", "0"), ["trials=0", "above 0"]),
        (("--epochs", "-1"), ["epochs=-1", "above 0"]),
        (("--minutes", "-1"), ["minutes=-1", "above 0"]),
        (("--search", "sobl"), ["sobl", "sobol"]),
        (("--schedule", "ahsa"), ["ahsa", "asha"]),
        (("--device", "nvidia"), ["nvidia", "cpu"]),
        (("--name", "a/b"), ["a/b"]),
        (("--storage", "nosuch://x"), ["nosuch://x"]),
        (("--storage", "/proc/none/studies.db"), ["/proc/none", "--storage"]),
    ],
)
def test_settings_that_cannot_be(run: Run, tmp_path: Path, options: tuple[str, ...], words: list[str]) -> None:
    (tmp_path / "bad.toml").write_text("lr = {low = 1\n")
    code, _, error = run("tune", "digits", *QUICK, *options)
    paragraph(code, error, *words)


def test_a_mistake_in_the_arguments_themselves(run: Run) -> None:
    code, _, error = run("tune", "digits", "--trials", "many")
    assert code == 2 and "--trials" in error and "integer" in error


# -- studies that exist --------------------------------------------------------------------------------------


@pytest.fixture
def recorded(run: Run, tmp_path: Path) -> list[Any]:
    """A finished study of three trials, `t`, as it is printed."""
    (tmp_path / "t.py").write_text(TASK)
    assert run("tune", "t.py", *QUICK)[0] == 0
    return [json.loads(run("trials", "t", "--json")[1])]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("best", "tt"), ["tt", "Did you mean 't'"]),
        (("show", "t", "17"), ["17", "0 to 2"]),
        (("pause", "t"), ["not running"]),
        (("stop", "t"), ["not running"]),
        (("worker", "t"), ["not running", "rheostat tune"]),
        (("enqueue", "t", "units=3"), ["units", "lr"]),
        (("enqueue", "t", "lr=7"), ["lr=7", "0.001 to 1"]),
        (("explain", "leraning_rate"), ["leraning_rate"]),
        (("tune", "t.py", "--trials", "4", "--epochs", "2"), ["epochs = 1", "another name"]),
        (("tune", "t.py", "--trials", "4", "--epochs", "1", "--seed", "9"), ["seed: 0 -> 9"]),
        (("tune", "digits", "--name", "t", *QUICK), ["units: absent", "another name"]),
        (("tune", "t.py", *QUICK, "--set", "momentum=0.9", "--set", "optimizer=sgd"), ["absent -> fixed"]),
    ],
)
def test_what_a_study_refuses_leaves_it_as_it_was(
    run: Run, recorded: list[Any], arguments: tuple[str, ...], words: list[str]
) -> None:
    code, _, error = run(*arguments)
    assert code != 0
    for word in words:
        assert word in error, error
    assert [json.loads(run("trials", "t", "--json")[1])] == recorded
    assert run("tune", "t.py", "--trials", "4", "--epochs", "1", "--workers", "1")[0] == 0  # and it can go on
    assert len(json.loads(run("trials", "t", "--json")[1])) == 4


def test_a_locked_database(run: Run, recorded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheostat.records.store.Records.__init__.__defaults__", ("", 0.2))
    other = sqlite3.connect("studies.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    code, _, error = run("tune", "t.py", "--trials", "4", "--epochs", "1", "--workers", "1")
    other.execute("ROLLBACK")
    other.close()
    paragraph(code, error, "Another process holds it")
    assert [json.loads(run("trials", "t", "--json")[1])] == recorded


def test_a_corrupt_database_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("my notes " * 1000)
    code, _, error = run("tune", "digits", *QUICK)
    paragraph(code, error, "It is no database", "--storage")
    assert (tmp_path / "studies.db").read_text().startswith("my notes")


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from rheostat.cli import main
main()
"""


def test_a_full_disk_loses_nothing(run: Run, recorded: list[Any], tmp_path: Path) -> None:
    wide = TASK.replace("nn.Linear(4, 2)", "nn.Sequential(nn.Linear(4, 90000), nn.Linear(90000, 2))")
    (tmp_path / "wide.py").write_text(wide)
    command = [sys.executable, "-c", FULL, "1000000", "tune", "wide.py", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True)
    paragraph(done.returncode, done.stderr, "the disk is full", "Free some space")
    assert [json.loads(run("trials", "t", "--json")[1])] == recorded
    assert run("tune", "wide.py", *QUICK)[0] == 0


# -- the user's own code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("raise ValueError('shapes')", ["ValueError: shapes"]),
        ("return nn.Linear(5, 2)", ["cannot be applied", "(4,)"]),
        ("return nn.Linear(4, 1)", ["cannot be applied"]),
        ("return 'a network'", ["must return a torch.nn.Module"]),
        ("return config.units", ["units"]),
    ],
)
def test_models_that_cannot_be_built(run: Run, tmp_path: Path, network: str, words: list[str]) -> None:
    (tmp_path / "t.py").write_text(TASK.replace("return nn.Linear(4, 2)", network))
    code, _, error = run("tune", "t.py", *QUICK)
    assert code != 0 and all(word in error for word in words), error


def test_nan_in_every_trial_is_told_with_its_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text(
        TASK.replace("Float(1e-3, 1.0, log=True)", "Float(1e39, 1e40, log=True), optimizer='sgd'")
    )
    code, _, error = run("tune", "t.py", *QUICK)
    paragraph(code, error, "No trial", "loss", "at step")
    assert {t["state"] for t in json.loads(run("trials", "t", "--json")[1])} == {"infeasible"}


def test_out_of_memory_in_some_trials_is_a_result(run: Run, tmp_path: Path) -> None:
    task = TASK.replace("return nn.Linear(4, 2)", "return nn.Linear(4, 2 if config.units == 1 else 2**45)")
    space = "from rheostat import Choice\\nspace = Space(units=Choice([1, 2]))".replace("\\n", "\n")
    (tmp_path / "t.py").write_text(task + space)
    run("tune", "t.py", "--trials", "2", "--epochs", "1", "--workers", "1", "--search", "grid")
    states = {t["config"]["units"]: (t["state"], t["reason"]) for t in json.loads(run("trials", "t", "--json")[1])}
    if states:  # the check before training may meet the large one first
        assert states[1][0] == "done" and "out of memory" in states[2][1]


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("raise KeyError('lr2')", "KeyError"),
        ("pass", "without 'loss'"),
        ("trial.report(los=1.0)", "reported: los"),
        ("trial.report(loss='low')", "give a number"),
        ("return 'low'", "give a number"),
        ("return trial.learning_rate", "Unknown hyperparameter 'learning_rate'"),
    ],
)
def test_objectives_that_fail_stop_with_the_reason_and_are_tried_again(
    tmp_path: Path, objective: str, words: str
) -> None:
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(f"def objective(trial):\n    {objective}"), namespace)
    space = rheostat.Space(lr=rheostat.Float(0, 1))
    study = rheostat.Study("o", space, metric="loss", storage=tmp_path / "s.db")
    with pytest.raises(rheostat.RheostatError, match=words):
        study.optimize(namespace["objective"], trials=3, progress="none")
    study.optimize(lambda trial: trial.lr, trials=3, progress="none")
    assert [trial.status for trial in study.trials] == [Status.DONE] * 3
