"""The comparisons of docs/claims.md, on the same excerpts of the data.

    python -m benchmarks.claims DATASETS FOLDER [NAME ...]

DATASETS is a folder with fashion-mnist, tinyshakespeare, multi30k and sst2 as the project's benchmarks use them. The
excerpts, the records and a page with the plots of each comparison go to FOLDER; a comparison that was begun goes on.
Without names, all are made: minutes on a GPU with 16 processor cores where they run side by side, hours on two cores.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rheostat.comparing import compare
from rheostat.show import comparison as shown
from rheostat.show import text
from rheostat.targets import load_target

OPTIMIZERS = ["adamw", "adam", "sgd", "momentum", "adagrad", "rmsprop"]
SIZES = {"vary": {"batch_size": [16, 64, 256, 1024]}, "reference": 64}
CELLS = {"vary": {"cell": ["vanilla", "gru", "lstm"]}, "trials": 4, "seeds": 3}
FEW: dict[str, Any] = {"trials": 4, "seeds": 3}
CLAIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "depth": ("digits", {"vary": {"layers": [1, 2, 3, 4]}}),
    "width": ("digits", {"vary": {"units": [16, 64, 256, 1024]}, "reference": 256}),
    "batch-tuned": ("digits", SIZES),
    "batch-fixed": ("digits", {**SIZES, "lr": "fixed"}),
    "batch-linear": ("digits", {**SIZES, "lr": "linear"}),
    "optimizer-default": ("digits", {"vary": {"optimizer": OPTIMIZERS}, "lr": "default"}),
    "optimizer-tuned": ("digits", {"vary": {"optimizer": OPTIMIZERS}}),
    "schedule": (
        "digits",
        {"vary": {"schedule": ["constant", "step", "exponential", "linear", "cosine", "one_cycle"]}},
    ),
    "activation": ("digits", {"vary": {"activation": ["relu", "tanh", "gelu", "silu", "sigmoid"]}}),
    "init": ("digits", {"vary": {"init": [1.0, 0.1, 0.5, 2.0, 10.0]}}),
    "layers-cnn": ("fashion.npz", {"vary": {"layers": [2, 4, 6, 8]}, "epochs": 5, **FEW}),
    "cell-texts": ("sst2", {**CELLS, "epochs": 3}),
    "embedding": ("sst2", {"vary": {"embedding": [25, 50, 100, 200, 400]}, "reference": 200, "epochs": 3, **FEW}),
    "cell-lm": ("shakespeare.txt", {**CELLS, "epochs": 4}),
    "recurrent-layers": ("shakespeare.txt", {"vary": {"recurrent_layers": [1, 2, 3]}, "epochs": 4, **FEW}),
    "decoder": (
        "train.en",
        {"vary": {"decoder_cell": ["vanilla", "gru", "lstm"]}, "epochs": 3, "trials": 3, "seeds": 3},
    ),
    "attention": (
        "train.en",
        {"vary": {"attention": ["none", "multiplicative", "additive"]}, "epochs": 3, "trials": 3, "seeds": 3},
    ),
}


def fashion(data: Path, folder: Path) -> None:
    """10,000 images to train on, 3,000 others to validate on, and the test part."""

    def read(name: str, offset: int) -> np.ndarray[Any, Any]:
        return np.frombuffer(gzip.decompress((data / "fashion-mnist" / name).read_bytes()), np.uint8, offset=offset)

    x, y = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), read("train-labels-idx1-ubyte.gz", 8).astype(int)
    xt, yt = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), read("t10k-labels-idx1-ubyte.gz", 8).astype(int)
    parts = {"x_train": x[:10_000], "y_train": y[:10_000], "x_val": x[50_000:53_000], "y_val": y[50_000:53_000]}
    np.savez(folder / "fashion.npz", **parts, x_test=xt, y_test=yt)


def shakespeare(data: Path, folder: Path) -> None:
    """The first 250,000 characters."""
    (folder / "shakespeare.txt").write_text((data / "tinyshakespeare" / "input.txt").read_text()[:250_000])


def multi30k(data: Path, folder: Path) -> None:
    """10,000 pairs to train on, 300 to validate on, and the test of 2016."""
    for language in ("en", "de"):
        for part, count in (("train", 10_000), ("val", 300), ("test_2016_flickr", 1_000)):
            with gzip.open(data / "multi30k" / f"{part}.{language}.gz", "rt", encoding="utf-8") as file:
                lines = file.read().split("\n")[:count]
            (folder / f"{part}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")


EXCERPTS: dict[str, Callable[[Path, Path], None]] = {
    "fashion.npz": fashion,
    "shakespeare.txt": shakespeare,
    "train.en": multi30k,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[*CLAIMS, []], metavar="NAME")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or CLAIMS:
        data, settings = CLAIMS[name]
        if data in EXCERPTS and not (options.folder / data).exists():
            EXCERPTS[data](options.datasets, options.folder)
        target = data if data == "digits" else str((options.datasets if data == "sst2" else options.folder) / data)
        loaded = load_target(target)
        found = compare(
            loaded.task,
            loaded.space,
            **{"epochs": loaded.epochs, **settings},
            name=name,
            storage=options.folder / "claims.db",
            target={"target": target},
        )
        text.show(shown.table(found))
        print(shown.sentence(found), *shown.notes(found), "", sep="\n")
        (options.folder / f"{name}.html").write_text(shown.page([found]), encoding="utf-8")


if __name__ == "__main__":
    main()
