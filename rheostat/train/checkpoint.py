"""Checkpoints: pause a trial in one process, continue it in another, and keep the best weights.

    <root>/00007/epoch-00012/weights.safetensors   the network after epoch 12
                            /state.pt              optimiser, rate, hooks, random state, reports so far
    <root>/00007/best.safetensors                  the network after its best epoch

A checkpoint appears in one rename, so a killed process leaves either the old or the new one. `state.pt` is read
with `weights_only=True`: it holds tensors and plain values, and no code runs when it is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rheostat.errors import CheckpointError

WEIGHTS, STATE, BEST = "weights.safetensors", "state.pt", "best.safetensors"


def trial_folder(root: Path, trial: int) -> Path:
    return root / f"{trial:05d}"


def save(folder: Path, epoch: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the checkpoint of an epoch into a trial's folder, then remove the earlier ones.

    Raises CheckpointError where the disk is full or may not be written; the earlier checkpoint is then intact.
    """
    final = folder / f"epoch-{epoch:05d}"
    temporary = folder / f"epoch-{epoch:05d}.{os.getpid()}"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        save_file(_separate(weights), temporary / WEIGHTS)
        buffer = io.BytesIO()  # torch's own writer hides why a write failed
        torch.save(dict(state), buffer)
        (temporary / STATE).write_bytes(buffer.getvalue())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except (OSError, SafetensorError) as cause:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _cannot_write(folder, cause) from cause
    for other in folder.glob("epoch-*"):
        if other.name < final.name:
            shutil.rmtree(other, ignore_errors=True)


def inherit(root: Path, parent: int, epoch: int, child: int) -> None:
    """Let a child begin with its parent's checkpoint of an epoch. Where the parent has none, nothing happens.

    Files are linked, not copied, where the file system can: checkpoints are never written to again. Raises
    CheckpointError as `save` does.
    """
    source, folder = trial_folder(root, parent) / f"epoch-{epoch:05d}", trial_folder(root, child)
    if not source.exists() or any(folder.glob("epoch-?????")):
        return
    temporary = folder / f"{source.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary, copy_function=_link)
        temporary.rename(folder / source.name)
    except OSError as cause:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _cannot_write(folder, cause) from cause


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and state of the newest checkpoint that can be read; None where there is none.

    One that was damaged (a power cut may do it) is passed over: the trial then trains those epochs again.
    """
    for path in sorted(folder.glob("epoch-?????"), reverse=True):
        try:
            return load_file(path / WEIGHTS), torch.load(path / STATE, weights_only=True)
        except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError):
            continue
    return None


def save_best(folder: Path, epoch: int, weights: Mapping[str, Tensor]) -> None:
    """Keep the weights of a trial's best epoch so far. Raises CheckpointError as `save` does."""
    temporary = folder / f"{BEST}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_separate(weights), temporary, metadata={"epoch": str(epoch)})
        temporary.replace(folder / BEST)
    except (OSError, SafetensorError) as cause:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(folder, cause) from cause


def load_best(folder: Path) -> tuple[int, dict[str, Tensor]]:
    """The best epoch and its weights. Raises CheckpointError where they are gone or damaged."""
    path = folder / BEST
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["epoch"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as cause:
        raise CheckpointError(
            f"No readable weights at {path} ({cause}). The weights of the best trials are kept; "
            "enqueue this trial's configuration to train it again."
        ) from cause


def size_bytes(folder: Path) -> int:
    """The bytes in a folder. What a worker moves or removes meanwhile counts as nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def collect(root: Path, ended: Sequence[int], keep: int, budget_bytes: int) -> int:
    """Remove checkpoints of ended trials, given best first, but for the best `keep`; more if over the budget.

    The best one and every trial that has not ended are always kept. Returns the bytes in use afterwards.
    """
    place = {trial: rank for rank, trial in enumerate(ended)}
    folders = {int(path.name): path for path in root.iterdir() if path.name.isdecimal()} if root.exists() else {}
    used = 0
    removable = []
    for trial, path in folders.items():
        if place.get(trial, 0) >= keep:
            shutil.rmtree(path, ignore_errors=True)
            continue
        size = size_bytes(path)
        used += size
        if place.get(trial, 0) > 0:
            removable.append((place[trial], path, size))
    for _, path, size in sorted(removable, reverse=True):
        if used > budget_bytes:
            shutil.rmtree(path, ignore_errors=True)
            used -= size
    return used


def _separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory (tied weights do, and safetensors refuses them)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _cannot_write(folder: Path, cause: Exception) -> CheckpointError:
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    full = full or "No space left" in str(cause) or "File too large" in str(cause)
    what = "the disk is full" if full else str(cause).splitlines()[0]
    remedy = "Free some space" if full else f"Make {os.path.abspath(folder)} writable"  # noqa: PTH100
    return CheckpointError(
        f"Cannot write the checkpoint {folder}: {what}. {remedy}, or choose another place with --storage, and run "
        "the same command again: everything recorded so far is kept and the study continues."
    )
