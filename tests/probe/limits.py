"""Whether a batch fits in a limit, found out by a plain loop in a process of its own: what probes are compared with.

`python -m tests.probe.limits NAME BATCH_SIZE LIMIT` ends with 0 where it fits and with 3 where memory runs out.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from rheostat.train.adam import Adam
from rheostat.train.task import Task
from rheostat.types import Config

ROOT = Path(__file__).parent.parent.parent


def mlp(config: Config) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )


class GRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.output = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.gru(x)[0][:, -1])


def gru(config: Config) -> nn.Module:
    return GRU()


MODELS = {"mlp": mlp, "cnn": cnn, "gru": gru}
SHAPES = {"mlp": (16,), "cnn": (1, 32, 32), "gru": (100, 8)}
EXAMPLES = {"mlp": 100_000, "cnn": 8_000, "gru": 4_000}
LIMIT_BYTES = 600_000_000


def data(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    examples = EXAMPLES[name]
    return torch.randn(examples, *SHAPES[name], generator=generator), torch.arange(examples) % 10


def task(name: str) -> Task:
    x, y = data(name)
    return Task(MODELS[name], (x, y), (x[:8], y[:8]), device="cpu")


def fits(name: str, batch_size: int, limit_bytes: int) -> bool:
    """Whether training at this batch size runs within the limit, by trying it in a fresh process."""
    command = [sys.executable, "-m", "tests.probe.limits", name, str(batch_size), str(limit_bytes)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode in (0, 3), done.stderr.decode()
    return done.returncode == 0


def real_limit(name: str, limit_bytes: int, low: int, high: int, close: float = 1.01) -> tuple[int, int]:
    """By bisection: a batch size that fits, and one at most so many times as large that does not."""
    assert fits(name, low, limit_bytes) and not fits(name, high, limit_bytes)
    while high > low * close:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(name, middle, limit_bytes) else (low, middle)
    return low, high


def train(name: str, batch_size: int, limit_bytes: int) -> None:
    torch.set_num_threads(1)
    x, y = data(name)
    model = MODELS[name](Config())
    optimizer = Adam(model.parameters(), 0.0)  # torch's own would import its compiler, and 70 MB with it
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    for _ in range(3):
        for step, rows in enumerate(torch.randperm(len(x)).split(batch_size)):
            if step >= 3 and len(rows) == batch_size:  # the first and the last batches of an epoch
                continue
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


if __name__ == "__main__":
    try:
        train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except (MemoryError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(3)
