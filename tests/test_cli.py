"""The commands: the JSON contract of docs/json.md, continuing, and what other processes may do to a study."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pexpect
import pytest

import rheostat
from tests.test_bad_inputs import TASK, Run, run  # noqa: F401 - a fixture

SLOW_TASK = TASK + (
    "\nclass Slow(nn.Module):\n"
    "    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear(4, 2)\n"
    "    def forward(self, x):\n        import time\n        time.sleep(0.02)\n        return self.linear(x)\n"
    "def network(config): return Slow()\n"
)


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:  # noqa: F811
    (tmp_path / "t.py").write_text(TASK)
    return tmp_path


def test_tune_ends_standard_output_with_the_line_of_the_contract(run: Run, folder: Path) -> None:  # noqa: F811
    code, out, err = run("tune", "t.py", "--trials", "5", "--epochs", "3", "--workers", "1", "--json")
    assert code == 0 and "trial" in err  # progress goes to standard error
    (line,) = out.splitlines()
    result = json.loads(line)
    assert list(result) == [
        "study", "storage", "metric", "direction", "best", "test", "trials", "epochs", "seconds", "advice",
    ]  # fmt: skip
    assert (result["study"], result["metric"], result["direction"]) == ("t", "val_error", "minimize")
    assert result["storage"].startswith("sqlite:///") and result["test"] is None
    assert list(result["best"]) == ["trial", "value", "epoch", "config"]
    assert sum(result["trials"].values()) == 5 and isinstance(result["advice"], list) and result["seconds"] > 0

    trials = json.loads(run("trials", "t", "--json")[1])
    assert len(trials) == 5 and result["epochs"] == sum(trial["epochs"] for trial in trials)
    for trial in trials:
        assert list(trial) == ["number", "state", "reason", "config", "epochs", "value", "epoch", "seconds"]
    best = trials[result["best"]["trial"]]
    assert (best["value"], best["epoch"], best["config"]) == tuple(
        result["best"][k] for k in ("value", "epoch", "config")
    )
    assert best["value"] == min(trial["value"] for trial in trials)
    assert json.loads(run("best", "t", "--json")[1]) == best

    shown = json.loads(run("show", "t", str(best["number"]), "--json")[1])
    assert {**best, "reports": shown["reports"]} == shown
    initial = shown["reports"][0]
    assert (initial["epoch"], initial["step"], initial["epoch_end"]) == (0, 0, False)
    rest = [report for report in shown["reports"] if report["epoch_end"]]
    for report in rest:
        assert {"train_loss", "val_loss", "val_error", "lr", "grad_norm", "examples_per_second"} < set(report)
    assert best["value"] == rest[best["epoch"] - 1]["val_error"]

    study = json.loads(run("show", "t", "--json")[1])
    assert {
        "study",
        "metric",
        "direction",
        "seed",
        "space",
        "settings",
        "target",
        "environment",
        "trials",
        "importance",
        "events",
    } == set(study)
    (row,) = json.loads(run("studies", "--json")[1])
    assert list(row) == ["study", "metric", "direction", "running", "trials", "best", "last_activity"]
    assert row["best"] == best["value"] and row["running"] is False


def test_the_same_command_continues_and_says_so(run: Run, folder: Path) -> None:  # noqa: F811
    quick = ("tune", "t.py", "--epochs", "1", "--workers", "1")
    assert "Continuing" not in run(*quick, "--trials", "2")[1]
    assert "has 2 of 4 trials" in run(*quick, "--trials", "4")[1]
    assert "has 4 trials already; give --trials 8" in run(*quick, "--trials", "4")[1]
    code, out, _ = run("resume", "t")
    assert code == 0 and "best" in out


def test_what_people_read(run: Run, folder: Path) -> None:  # noqa: F811
    out = run("tune", "t.py", "--epochs", "2", "--trials", "3", "--workers", "1")[1]
    assert 'rheostat.load("t"' in out and "held out  not measured" in out
    for command in (("best", "t"), ("trials", "t"), ("show", "t"), ("show", "t", "0"), ("studies",)):
        code, out, _ = run(*command)
        assert code == 0 and "val_error" in out, command
    assert "learning rate" in run("explain", "lr")[1].lower() and "batch_size" in run("explain")[1]


def test_spaces_on_the_command_line(run: Run, folder: Path) -> None:  # noqa: F811
    quick = ("tune", "digits", "--trials", "3", "--epochs", "1", "--workers", "1", "--json")
    changed = ("--set", "layers=1", "--set", "norm=none", "--vary", "units=8..16", "--vary", "activation=relu,tanh")
    run(*quick, "--name", "a", *changed)
    configs = [trial["config"] for trial in json.loads(run("trials", "a", "--json")[1])]
    assert all(c["layers"] == 1 and 8 <= c["units"] <= 16 and c["activation"] in ("relu", "tanh") for c in configs)
    (folder / "s.toml").write_text(
        'lr = {low = 1e-3, high = 0.1, log = true}\nunits = [8, 16]\nlayers = 1\noptimizer = ["sgd", "adam"]\n'
        'weight_decay = {low = 0.1, high = 0.2, when = {optimizer = "adam"}}\n'
    )
    run(*quick, "--name", "b", "--space", "s.toml")
    for trial in json.loads(run("trials", "b", "--json")[1]):
        config = trial["config"]
        assert config["units"] in (8, 16) and 1e-3 <= config["lr"] <= 0.1 and config["layers"] == 1
        assert ("weight_decay" in config) == (config["optimizer"] == "adam")


def test_what_is_enqueued_is_tried_next(run: Run, folder: Path) -> None:  # noqa: F811
    quick = ("tune", "t.py", "--epochs", "1", "--workers", "1")
    run(*quick, "--trials", "2")
    assert "Queued" in run("enqueue", "t", "lr=0.5")[1]
    run(*quick, "--trials", "3")
    assert json.loads(run("trials", "t", "--json")[1])[2]["config"] == {"lr": 0.5}


# -- from another terminal -----------------------------------------------------------------------------------

MAIN = [sys.executable, "-c", "from rheostat.cli import main; main()"]


def begun(folder: Path, *options: str) -> subprocess.Popen[str]:
    (folder / "slow.py").write_text(SLOW_TASK)
    lasting = ("--trials", "200", "--epochs", "20", "--schedule", "fifo", "--engine", "loop")  # recordings do not sleep
    command = [*MAIN, "tune", "slow.py", *lasting, *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: epochs(folder) > 2, process)
    return process


def epochs(folder: Path) -> int:
    try:
        return sum(trial.epochs for trial in rheostat.load("slow", str(folder / "studies.db")).trials)
    except rheostat.RheostatError:
        return 0


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_pause_resume_and_stop_from_another_terminal(run: Run, folder: Path, workers: str) -> None:  # noqa: F811
    process = begun(folder, "--workers", workers)
    try:
        assert "Told slow to pause" in run("pause", "slow")[1]
        time.sleep(1.5)
        before = epochs(folder)
        time.sleep(1.5)
        assert epochs(folder) == before and process.poll() is None
        run("resume", "slow")
        wait_for(lambda: epochs(folder) > before + 3, process)
        assert json.loads(run("studies", "--json")[1])[0]["running"] is True
        run("stop", "slow")
        assert "run the same command again" in process.communicate(timeout=60)[0] and process.returncode == 0
        done = [t for t in rheostat.load("slow", str(folder / "studies.db")).trials if t.epochs]
        assert all(t.epochs == 20 for t in done)  # the trials in training have finished
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_worker_joins_from_another_terminal(run: Run, folder: Path) -> None:  # noqa: F811
    process = begun(folder, "--workers", "2")
    guest = subprocess.Popen([*MAIN, "worker", "slow"], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert guest.stdout is not None and "Training for study slow" in guest.stdout.readline()
        before = epochs(folder)
        wait_for(lambda: epochs(folder) > before + 20, process)
        run("cancel", "slow")
        assert process.wait(60) == 0 and guest.wait(60) == 0  # a guest ends with its host
    finally:
        process.kill()
        guest.kill()
        process.communicate()
        guest.communicate()


def read_on(child: Any, seconds: float) -> str:
    """What a terminal shows meanwhile; one that nobody reads stops the program that writes to it."""
    shown, deadline = "", time.monotonic() + seconds
    with suppress(pexpect.EOF):
        while time.monotonic() < deadline:
            with suppress(pexpect.TIMEOUT):
                shown += child.read_nonblocking(10_000, timeout=0.1)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_once_finishes_and_twice_stops_and_nothing_is_lost(run: Run, folder: Path, presses: int) -> None:  # noqa: F811
    (folder / "slow.py").write_text(SLOW_TASK)
    arguments = [
        "-c",
        MAIN[2],
        "tune",
        "slow.py",
        "--trials",
        "400",
        "--epochs",
        "10",
        "--schedule",
        "fifo",
        "--workers",
        "2",
    ]
    child = pexpect.spawn(
        sys.executable, arguments, cwd=str(folder), timeout=60, encoding="utf-8", dimensions=(40, 120)
    )
    shown, deadline = "", time.monotonic() + 60
    while epochs(folder) < 4 and time.monotonic() < deadline:
        shown += read_on(child, 0.3)
    for _ in range(presses):
        child.sendintr()
        shown += read_on(child, 0.3)
    while child.isalive() and time.monotonic() < deadline:
        shown += read_on(child, 0.3)
    shown += read_on(child, 0.3)
    assert "Ctrl-C once" in shown and "go on     stopped before the end" in shown
    child.close()
    assert child.exitstatus == 0 or child.signalstatus == signal.SIGINT  # the second one may meet it as it leaves
    trained = [trial.epochs for trial in rheostat.load("slow", str(folder / "studies.db")).trials if trial.epochs]
    assert trained and (presses == 2 or all(count == 10 for count in trained))
    assert run("tune", "slow.py", "--trials", "4", "--epochs", "10", "--schedule", "fifo", "--workers", "1")[0] == 0
