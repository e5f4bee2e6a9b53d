"""The networks in Keras 3 on torch, and KerasTuner's Hyperband around them: one process of several."""

from __future__ import annotations

import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import keras_tuner
import numpy as np
import torch
from keras import layers

from benchmarks.live.notes import Notes
from benchmarks.live.problems import PROBLEMS
from benchmarks.live.tools import Run
from rheostat.space import Choice, Int

MANY = 10**6


def network(kind: str, inputs: tuple[int, ...], outputs: int, hp: keras_tuner.HyperParameters) -> keras.Model:
    """The same layers as in `networks`, with the initial weights of Keras."""
    rate = hp.get("dropout")
    if kind == "mlp":
        hidden = [part for _ in range(2) for part in (layers.Dense(hp.get("units"), "relu"), layers.Dropout(rate))]
        return keras.Sequential([layers.Input(inputs), *hidden, layers.Dense(outputs)])
    if kind == "gru":
        return keras.Sequential(
            [
                layers.Input(inputs, dtype="int64"),
                layers.Embedding(outputs, 64),
                layers.GRU(hp.get("hidden"), return_sequences=True),
                layers.Dropout(rate),
                layers.Dense(outputs),
            ]
        )
    blocks = []
    for factor in (1, 2, 4):
        blocks += [
            layers.Conv2D(factor * hp.get("channels"), 3, 2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return keras.Sequential(
        [layers.Input(inputs), *blocks, layers.Flatten(), layers.Dropout(rate), layers.Dense(outputs)]
    )


class Telling(keras.callbacks.Callback):
    """Notes the validation metric of every epoch."""

    def __init__(self, notes: Notes, by_loss: bool) -> None:
        super().__init__()
        self.notes, self.by_loss = notes, by_loss

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        self.notes.value(float(logs["val_loss"] if self.by_loss else 1 - logs["val_accuracy"]))

    def __deepcopy__(self, memo: object) -> Telling:  # KerasTuner copies callbacks for every trial
        return Telling(self.notes, self.by_loss)


def main() -> None:
    run = Run.from_arguments(sys.argv[1:])
    problem, notes = PROBLEMS[run.problem], Notes(run.notes)
    torch.set_num_threads(1)
    keras.utils.set_random_seed(run.seed)
    with np.load(run.data) as arrays:
        x, y, vx, vy = (arrays[name] for name in ("x", "y", "vx", "vy"))
    if problem.network == "cnn":
        x, vx = np.moveaxis(x, 1, -1), np.moveaxis(vx, 1, -1)  # channels last, as Keras has them
    outputs, by_loss = int(y.max()) + 1, problem.metric == "loss"

    def build(hp: keras_tuner.HyperParameters) -> keras.Model:
        for name, part in problem.space.tuned.items():
            if isinstance(part, Choice):
                hp.Choice(name, list(part.values))
            elif isinstance(part, Int):
                hp.Int(name, int(part.low), int(part.high), sampling="log" if part.log else "linear")
            else:
                hp.Float(name, part.low, part.high, sampling="log" if part.log else "linear")
        model = network(problem.network, x.shape[1:], outputs, hp)
        model.compile(
            keras.optimizers.AdamW(hp.get("lr"), hp.get("weight_decay"), beta_1=hp.get("beta1")),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    tuner = keras_tuner.Hyperband(
        build,
        objective=keras_tuner.Objective("val_loss", "min") if by_loss else "val_accuracy",
        max_epochs=problem.epochs,
        factor=3,
        hyperband_iterations=MANY,
        seed=run.seed,
        directory=run.folder,
        project_name=run.problem,
    )
    notes.ready()
    tuner.search(
        x, y, batch_size=problem.batch_size, validation_data=(vx, vy), verbose=0, callbacks=[Telling(notes, by_loss)]
    )


if __name__ == "__main__":
    main()
