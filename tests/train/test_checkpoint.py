from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rheostat.errors import CheckpointError
from rheostat.train import checkpoint

STATE = {"epoch": 3, "nested": [1, 2.5, None, True, "x", {"t": torch.arange(3)}]}


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 4), value), "b": torch.full((), value, dtype=torch.int64)}


def test_what_is_saved_is_loaded_and_only_the_latest_is_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, weights(1), STATE)
    checkpoint.save(tmp_path, 2, weights(2), STATE)
    loaded = checkpoint.latest(tmp_path)
    assert loaded is not None
    assert all(torch.equal(loaded[0][name], tensor) for name, tensor in weights(2).items())
    assert repr(loaded[1]) == repr(STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00002"]


def test_tied_and_transposed_weights_are_saved_as_they_are(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)])
    model[1].weight = model[0].weight
    state = {**model.state_dict(), "turned": torch.arange(6.0).reshape(2, 3).T}
    checkpoint.save(tmp_path, 1, state, {})
    loaded = checkpoint.latest(tmp_path)
    assert loaded is not None and all(torch.equal(loaded[0][name], tensor) for name, tensor in state.items())


def test_a_damaged_or_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, weights(1), STATE)
    (tmp_path / "epoch-00002.4711").mkdir()  # a process died while it wrote
    later = tmp_path / "epoch-00003"
    later.mkdir()
    (later / checkpoint.WEIGHTS).write_bytes(os.urandom(100))
    (later / checkpoint.STATE).write_bytes(b"")
    loaded = checkpoint.latest(tmp_path)
    assert loaded is not None and torch.equal(loaded[0]["a"], weights(1)["a"])
    checkpoint.save(tmp_path, 4, weights(4), STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00004"]


def test_no_code_runs_when_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'evil'}",)

    folder = tmp_path / "epoch-00001"
    checkpoint.save(tmp_path, 1, weights(), {})
    torch.save({"x": Evil()}, folder / checkpoint.STATE)
    assert checkpoint.latest(tmp_path) is None and not (tmp_path / "evil").exists()


def test_missing_best_weights_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No readable weights"):
        checkpoint.load_best(tmp_path)
    checkpoint.save_best(tmp_path, 7, weights())
    assert checkpoint.load_best(tmp_path)[0] == 7
    (tmp_path / checkpoint.BEST).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="No readable weights"):
        checkpoint.load_best(tmp_path)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB: what a full disk looks like to a program."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_told_in_words_and_the_last_checkpoint_is_intact(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, weights(1), STATE)
    checkpoint.save_best(tmp_path, 1, weights(1))
    large = {"a": torch.zeros(10_000)}
    with pytest.raises(CheckpointError, match=r"the disk is full. Free some space"):
        checkpoint.save(tmp_path, 2, large, STATE)
    with pytest.raises(CheckpointError, match=r"the disk is full. Free some space"):
        checkpoint.save_best(tmp_path, 2, large)
    with pytest.raises(CheckpointError, match=r"the disk is full. Free some space"):
        checkpoint.save(tmp_path, 2, weights(2), {"big": torch.zeros(10_000)})
    loaded = checkpoint.latest(tmp_path)
    assert loaded is not None and torch.equal(loaded[0]["a"], weights(1)["a"])
    assert checkpoint.load_best(tmp_path)[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "epoch-00001"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a read-only mount")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match="Cannot write the checkpoint"):
        checkpoint.save(blocked / "00001", 1, weights(), STATE)


def test_the_best_and_the_paused_are_kept_within_the_budget(tmp_path: Path) -> None:
    for trial in range(8):
        checkpoint.save_best(checkpoint.trial_folder(tmp_path, trial), 1, {"a": torch.zeros(2_500)})  # 10 kB
    ended = [5, 3, 1, 0, 7]  # best first; 2, 4 and 6 may go on
    used = checkpoint.collect(tmp_path, ended, keep=3, budget_bytes=10**9)
    assert kept(tmp_path) == [1, 2, 3, 4, 5, 6] and used == checkpoint.size_bytes(tmp_path)
    used = checkpoint.collect(tmp_path, ended, keep=3, budget_bytes=45_000)
    assert kept(tmp_path) == [2, 4, 5, 6] and used == checkpoint.size_bytes(tmp_path)
    checkpoint.collect(tmp_path, ended, keep=3, budget_bytes=1)
    assert kept(tmp_path) == [2, 4, 5, 6]  # the best one stays, and those that have not ended
    assert checkpoint.collect(tmp_path / "none", [], 3, 1) == 0


def kept(root: Path) -> list[int]:
    return sorted(int(path.name) for path in root.iterdir())


KILLED = """
import sys, torch
from pathlib import Path
from rheostat.train import checkpoint
print("ready", flush=True)
for epoch in range(1, 10**6):
    checkpoint.save(Path(sys.argv[1]), epoch, {"a": torch.full((50_000,), float(epoch))}, {"epoch": epoch})
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(5))
def test_kill_9_in_the_midst_of_saving_leaves_a_whole_checkpoint(tmp_path: Path, moment: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while not list(tmp_path.glob("epoch-?????")):
        pass
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05 + 0.0137 * moment)
    process.kill()
    process.communicate()
    loaded = checkpoint.latest(tmp_path)
    assert loaded is not None and loaded[0]["a"].eq(loaded[1]["epoch"]).all()


def test_collecting_bears_what_a_worker_moves_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint appears in one rename, so its temporary folder may vanish between being seen and being read."""
    gone = tmp_path / "00000" / "epoch-00002.77"
    gone.mkdir(parents=True)
    (gone / checkpoint.WEIGHTS).write_bytes(b"12345")
    (tmp_path / "00000" / checkpoint.BEST).write_bytes(b"123")
    stat = Path.stat

    def moved(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if gone in self.parents and gone.exists():
            shutil.rmtree(gone)
        return stat(self, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", moved)
    assert checkpoint.collect(tmp_path, [], 3, 1000) == 3
