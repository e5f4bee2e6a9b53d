"""`rheostat tune adult-train.csv.gz --target last`, with no other option, beside scikit-learn's logistic regression.

    python -m benchmarks.adult FOLDER [--seeds 3]

FOLDER holds `adult-train.csv.gz` and `adult-test.csv.gz`. Both are judged on the test file, which neither has seen.
The logistic regression gets what a careful user gives it: medians and an own category for what is missing,
standardised numbers, one-hot categories, and all the rows that Rheostat splits into training and validation.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMERIC = [0, 2, 4, 10, 11, 12]


def rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(path, "rt") as file:
        table = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    x = np.array([row[:-1] for row in table], dtype=object)
    x[x == "?"] = np.nan
    x[:, NUMERIC] = x[:, NUMERIC].astype(float)
    return x, np.array([row[-1].rstrip(".") for row in table])


def logistic(folder: Path) -> float:
    """Test error of the logistic regression."""
    categories = [c for c in range(14) if c not in NUMERIC]
    model = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMERIC),
                (
                    "categories",
                    make_pipeline(
                        SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(handle_unknown="ignore")
                    ),
                    categories,
                ),
            ]
        ),
        LogisticRegression(max_iter=2000),
    )
    model.fit(*rows(folder / "adult-train.csv.gz"))
    x, y = rows(folder / "adult-test.csv.gz")
    return float(np.mean(model.predict(x) != y))


def tuned(folder: Path, seed: int) -> tuple[float, float]:
    """Test error of the tuned network, and seconds from the start of the process."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "from rheostat.cli import main; main()", "tune", "--json", "--seed", str(seed)]
    command += [str(folder / "adult-train.csv.gz"), "--target", "last", "--test", str(folder / "adult-test.csv.gz")]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout.splitlines()[-1])["test"], time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder.resolve()
    print(f"logistic regression    test error {logistic(folder):.4f}")
    for seed in range(options.seeds):
        error, seconds = tuned(folder, seed)
        print(f"rheostat tune, seed {seed}  test error {error:.4f}   {seconds:.0f} s")


if __name__ == "__main__":
    main()
