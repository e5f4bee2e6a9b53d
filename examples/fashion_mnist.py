"""A small CNN on Fashion-MNIST, tuned in three ways that give the same results for the same seed.

    rheostat tune examples/fashion_mnist.py:task --arg data=FOLDER      # no code but this file
    python examples/fashion_mnist.py FOLDER                             # rheostat.tune
    python examples/fashion_mnist.py FOLDER --own-loop                  # study.optimize with a loop of one's own

FOLDER holds the four IDX files of the data set, `train-images-idx3-ubyte.gz` and so on, as Debian's package
`dataset-fashion-mnist` installs them. `--examples 10000` trains on fewer of them.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rheostat
from rheostat import Choice, Float, Int, Space, Task

space = Space(
    lr=Float(1e-4, 1e-2, log=True, prior=1e-3),
    batch_size=Choice([64, 128, 256]),
    channels=Int(8, 32, log=True),
    dropout=Float(0.0, 0.5),
    optimizer="adam",
)


def read_idx(path: Path) -> Tensor:
    """An IDX file: 0, 0, a type, the number of dimensions, each of them as 4 bytes, then the data."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape).copy())


def load(folder: Path, examples: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation parts: images (N, 1, 28, 28), standardised by the training part, and classes."""
    images = read_idx(folder / "train-images-idx3-ubyte.gz")[:examples].float().unsqueeze(1)
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")[:examples].long()
    cut = len(images) * 5 // 6
    mean, deviation = images[:cut].mean(), images[:cut].std()
    images = (images - mean) / deviation
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def network(config: rheostat.Config) -> nn.Module:
    channels = config.channels
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),  # (N, channels, 28, 28)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),  # (N, 2 channels, 14, 14)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(2 * channels * 7 * 7, 10),
    )


def task(data: str, examples: str = "60000") -> Task:
    """What `rheostat tune` and `rheostat.tune` train."""
    train, validation = load(Path(data), int(examples))
    return Task(network, train, validation, metrics=["error"], name="fashion-mnist")


def tune_with_own_loop(
    folder: Path, examples: int, trials: int, epochs: int, workers: int | None = None
) -> rheostat.Study:
    """The same study with the training loop written out."""
    train, (x_validation, y_validation) = load(folder, examples)

    def objective(trial: rheostat.Trial) -> None:
        model = network(trial.config)
        optimizer = torch.optim.Adam(model.parameters(), lr=trial.lr, fused=True)
        batches = rheostat.TensorBatches(train, trial.batch_size, trial.seed)
        for epoch in trial.epochs(model=model, optimizer=optimizer):
            model.train()
            for x, y in batches.epoch(epoch):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                wrong = [
                    model(x).argmax(1) != y
                    for x, y in zip(x_validation.split(4096), y_validation.split(4096), strict=True)
                ]
            trial.report(val_error=torch.cat(wrong).float().mean())

    study = rheostat.Study("fashion-mnist-own-loop", space, metric="val_error")
    return study.optimize(objective, trials=trials, epochs=epochs, workers=workers, threads=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--own-loop", action="store_true")
    parser.add_argument("--examples", type=int, default=60000)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=9)
    options = parser.parse_args()
    if options.own_loop:
        found = tune_with_own_loop(options.folder, options.examples, options.trials, options.epochs)
    else:
        whole = task(str(options.folder), str(options.examples))
        found = rheostat.tune(whole, space, trials=options.trials, epochs=options.epochs)
    print(f"validation error {found.best.value:.4f} with {dict(found.best.config)}")
