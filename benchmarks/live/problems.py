"""What the tools race on: data, a space and a network for each problem, the same for all of them.

The networks are plain PyTorch with its own initial weights. Their structure is one of two or three, the rest are
numbers: the usual study of a network whose kind is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.space import Choice, Float, Space

Arrays = Mapping[str, NDArray[Any]]  # x, y, and vx, vy to validate on

LENGTH, TEXT = 64, 150_000  # of tinyshakespeare: characters in a row, and those that are used
BASE = {
    "lr": Float(1e-4, 1e-1, log=True),
    "weight_decay": Float(1e-4, 1.0, log=True),
    "beta1": Float(0.7, 0.99),
    "dropout": Float(0.0, 0.6),
}


@dataclass(frozen=True)
class Problem:
    """`read` makes the arrays from the folder of data sets; `network` is the name of a function in `networks`.

    `metric` is what is minimised on the validation data: `error` (share of wrong classes) or `loss` (nats per token).
    """

    read: Callable[[Path], Arrays]
    network: str
    space: Space
    batch_size: int
    epochs: int
    metric: str = "error"


def digits(folder: Path) -> Arrays:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _split(x / 16, y, 599)


def adult(folder: Path) -> Arrays:
    from rheostat.data.read import read

    data = read(folder / "adult" / "adult-train.csv.gz", label="last", validation_fraction=0.2, seed=0)
    (x, y), (vx, vy) = data.train, data.validation
    return {"x": x.numpy(), "y": y.numpy(), "vx": vx.numpy(), "vy": vy.numpy()}


def fashion(folder: Path) -> Arrays:
    """10,000 images to train on and 3,000 others to validate on, (N, 1, 28, 28)."""
    from rheostat.data.idx import read_idx_file

    x = read_idx_file(folder / "fashion-mnist" / "train-images-idx3-ubyte.gz")
    y = read_idx_file(folder / "fashion-mnist" / "train-labels-idx1-ubyte.gz")
    return _split(np.asarray(x)[:13_000, None] / 255.0, np.asarray(y)[:13_000], 3_000)


def shakespeare(folder: Path) -> Arrays:
    """Characters in rows of `LENGTH`, and those that follow each; the last sixth validates."""
    text = (folder / "tinyshakespeare" / "input.txt").read_text()[: TEXT + 1]
    characters = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = np.array([characters[character] for character in text])
    rows = (len(tokens) - 1) // LENGTH
    x, y = (tokens[start : start + rows * LENGTH].reshape(rows, LENGTH) for start in (0, 1))
    last = rows * 5 // 6
    return {"x": x[:last], "y": y[:last], "vx": x[last:], "vy": y[last:]}


def _split(x: NDArray[Any], y: NDArray[Any], validate: int) -> Arrays:
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order].astype(np.int64)
    x = (x - x[validate:].mean()) / x[validate:].std()
    return {"x": x[validate:], "y": y[validate:], "vx": x[:validate], "vy": y[:validate]}


PROBLEMS: Mapping[str, Problem] = {
    "digits": Problem(digits, "mlp", Space(**BASE, units=Choice([64, 128, 256])), batch_size=32, epochs=20),
    "adult": Problem(adult, "mlp", Space(**BASE, units=Choice([32, 64, 128])), batch_size=256, epochs=10),
    "fashion": Problem(fashion, "cnn", Space(**BASE, channels=Choice([8, 16])), batch_size=64, epochs=9),
    "shakespeare": Problem(
        shakespeare, "gru", Space(**BASE, hidden=Choice([64, 128])), batch_size=32, epochs=9, metric="loss"
    ),
}


def prepare(name: str, folder: Path, cache: Path) -> Path:
    """The problem's arrays in a file that every tool reads; made where it is not there."""
    file = cache / f"{name}.npz"
    if not file.exists():
        np.savez(file, **PROBLEMS[name].read(folder))
    return file
