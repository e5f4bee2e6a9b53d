"""UMLAUT: Schoop et al. 2021, *UMLAUT: debugging deep learning programs using program structure and model behavior*.

CHI 2021, table 1, and the authors' code (umlaut/heuristics.py), run after every epoch; errors are listed as they come,
and the first are ranked first. Their names and ours: NaN in loss, diverged; learning rate high and low, lr_too_high and
lr_too_low; possible overfitting, overfitting; high validation accuracy, leak.

Left out, for they read the program or its inputs: input normalisation, type and shape, softmax before the loss,
missing activations.
"""

from __future__ import annotations

import numpy as np

from benchmarks.pathologies.published.reading import accuracy, learning_rate, ranked
from rheostat.diagnose.base import Observations
from rheostat.diagnose.shapes import breakdown

HIGHEST_RATE, LOWEST_RATE = 0.01, 1e-7
HIGH_ACCURACY = 0.95
SETTLED = 3  # epochs, before which validation accuracy is ignored


def causes(run: Observations) -> list[str]:
    """Their errors in the order in which they come."""
    rate, lost = learning_rate(run), breakdown(run)
    losses, val_losses = run.curve("train_loss"), run.curve("val_loss")
    train, val = accuracy(run, "train"), accuracy(run, "val")
    known = np.fmax.accumulate(np.where(np.isnan(train), -np.inf, np.arange(len(train)))) if len(train) else train
    found = []
    for epoch in range(max(run.epochs, 1)):
        if lost is not None and lost <= epoch + 1:
            found.append("diverged")
        if rate > HIGHEST_RATE:
            found.append("lr_too_high")
        if rate < LOWEST_RATE:
            found.append("lr_too_low")
        if 0 < epoch < run.epochs:
            if val_losses[epoch] > val_losses[epoch - 1] and losses[epoch] <= losses[epoch - 1]:
                found.append("overfitting")
            latest = train[int(known[epoch])] if known[epoch] >= 0 else np.nan  # training accuracy when last known
            if epoch >= SETTLED and (val[epoch] > HIGH_ACCURACY or val[epoch] > latest):
                found.append("leak")
    return ranked([*found, "diverged"] if lost is not None else found)
