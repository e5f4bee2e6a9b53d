"""The network of a trial, looked into: what it is, and what its layers did in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from rheostat.data.base import Vocabulary
from rheostat.errors import CheckpointError
from rheostat.execute.inline import training_threads
from rheostat.results import TrialResult
from rheostat.show import text
from rheostat.show.network import cost_words, gates_table, history_table, layers_table, replay_words
from rheostat.study import Study
from rheostat.train import checkpoint, optimizers, randomness
from rheostat.train.network import LayerRow, summary
from rheostat.train.replay import Replay, probe, replay
from rheostat.train.task import Task, tensors_of
from rheostat.types import trial_seed

FEW = 8  # examples that costs are measured with


def show_network(
    study: Study,
    trial: TrialResult,
    task: Task,
    epochs: int | None = None,
    folder: Path | None = None,
    vocabularies: Sequence[Vocabulary] = (),
) -> None:
    """Print the layers of a trial's network at once; with `epochs`, train it again so long and print what they did.

    With a folder, its figures go into one HTML file there: of the network as it was trained again, or else with the
    weights of its best epoch. `vocabularies` name the tokens in them.

    Raises TaskError where the network cannot be built, copied or applied to the validation data.
    """
    rows = layers(study, trial, task)
    text.show(layers_table(rows))
    text.show(cost_words(rows, _batch_size(task, trial)))
    played = None
    if epochs is not None:
        text.show(f"\nTraining trial {trial.number} again for {epochs} epoch{'s' if epochs > 1 else ''} ...")
        played = train_again(study, trial, task, epochs)
        text.show(replay_words(played))
        text.show(history_table(played.history))
        if (gates := gates_table(played.history)).rows:
            text.show("")
            text.show(gates)
    if folder is not None:
        text.show(f"\nfigures  {_save_figures(study, trial, task, played, folder, vocabularies)}")


def network_json(study: Study, trial: TrialResult, task: Task, epochs: int | None = None) -> dict[str, Any]:
    """The same as values for JSON: `layers`, and with `epochs` the `moments` and how they compare with the trial."""
    found: dict[str, Any] = {"trial": trial.number, "layers": [asdict(row) for row in layers(study, trial, task)]}
    if epochs is not None:
        played = train_again(study, trial, task, epochs)
        found["moments"] = [asdict(moment) for moment in played.history.moments]
        found["replay"] = {"compared": played.compared, "difference": played.difference, "reason": played.reason}
    return found


def layers(study: Study, trial: TrialResult, task: Task) -> tuple[LayerRow, ...]:
    """The layers of a trial's network with their costs, its optimiser's among them."""
    config = trial.config
    inputs = tuple(part[:FEW] for part in probe(task.validation))
    return summary(
        _untrained(study, trial, task), inputs, lambda copy: optimizers.build(config, task.groups(copy, config))
    )


def train_again(study: Study, trial: TrialResult, task: Task, epochs: int) -> Replay:
    """As the study trained it, with as many threads."""
    settings = study.record.settings
    with training_threads(settings.get("threads")):
        return replay(
            task,
            trial.config,
            trial_seed(study.seed, trial.number),
            epochs,
            settings.get("epochs", epochs),
            trial.reports,
        )


def _untrained(study: Study, trial: TrialResult, task: Task) -> nn.Module:
    with randomness.apart():
        randomness.seed_all(trial_seed(study.seed, trial.number))
        return task.model(trial.config)


def _save_figures(
    study: Study,
    trial: TrialResult,
    task: Task,
    played: Replay | None,
    folder: Path,
    vocabularies: Sequence[Vocabulary],
) -> Path:
    from rheostat.show.network_figures import figures, save_page  # plotly takes a second

    state = f"after {played.history.moments[-1].epoch:g} epochs" if played is not None else ""
    network = _untrained(study, trial, task) if played is None else played.network.cpu()
    if played is None:
        try:
            epoch, weights = checkpoint.load_best(checkpoint.trial_folder(study.checkpoints, trial.number))
            network.load_state_dict(weights)
            state = f"after its best epoch, {epoch}"
        except CheckpointError:  # only those of the best trials are kept
            state = "untrained, as its weights were not kept"
    history = played.history if played is not None else None
    title = f"Trial {trial.number} of {study.name}, {state}"
    shown = figures(network, probe(task.validation), history, vocabularies)
    return save_page(folder / f"{study.name}-{trial.number}-network.html", title, shown)


def _batch_size(task: Task, trial: TrialResult) -> int:
    if isinstance(task.train, DataLoader):
        return task.train.batch_size or 1
    given = trial.config.get("batch_size", 32)
    return given if isinstance(given, int) else max(map(len, tensors_of(task.train)), default=1)
