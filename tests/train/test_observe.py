from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rheostat.data.base import TokenStream
from rheostat.errors import SettingError
from rheostat.models.language_model import RecurrentLanguageModel
from rheostat.models.mlp import MLP
from rheostat.train.gates import gates, openness
from rheostat.train.hooks import Hook, Hooks, Run
from rheostat.train.loop import Training
from rheostat.train.observe import MEASURES, NetworkHistory, Observer
from rheostat.train.optimizers import SGD
from rheostat.train.spectrum import spectrum
from rheostat.train.task import Task
from rheostat.types import Config, Job

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(70, 6, generator=GENERATOR)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
TEXT = TokenStream(torch.randint(0, 12, (600,), generator=GENERATOR), length=8)


def rows_task(norm: str = "batch") -> Task:
    return Task(lambda c: MLP(6, 3, 2, 8, dropout=0.3, norm=norm), (X, Y), (X[:20], Y[:20]), device="cpu")


def text_task() -> Task:
    model: Callable[[Config], nn.Module] = lambda c: RecurrentLanguageModel(12, "gru", 4, 6, dropout=0.2)  # noqa: E731
    return Task(model, TEXT, TEXT, loss="tokens", metrics=(), device="cpu")


def with_hooks(task: Task, *hooks: Hook) -> Task:
    return replace(task, hooks=lambda config: hooks)


def trained(task: Task, config: Config, epochs: int = 3) -> Training:
    training = Training(task, Job(0, config, seed=7, until_epoch=epochs, max_epochs=epochs))
    while not training.ended:
        training.train_epoch()
    return training


PROBES: dict[str, tuple[Tensor, ...]] = {
    "rows": (X[:16],),
    "text": (TEXT.tokens[:32].view(4, 8), torch.ones(4, dtype=torch.bool)),
}


# --- it does not change the training ---


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("rows", Config(lr=0.01, batch_size=16, optimizer="adam", clip_norm=0.1)),
        ("rows", Config(lr=0.1, batch_size=20, optimizer="sgd", momentum=0.9, accumulate=3, ema=0.9)),
        ("text", Config(lr=0.01, batch_size=4, optimizer="adamw", weight_decay=0.1)),
    ],
)
def test_training_is_the_same_bit_for_bit(kind: str, config: Config, every: int | None) -> None:
    task = rows_task() if kind == "rows" else text_task()
    observer = Observer(PROBES[kind], every)
    plain, observed = trained(task, config), trained(with_hooks(task, observer), config)
    weights = observed.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.model.state_dict().items())
    metrics = [[{**r.metrics, "examples_per_second": 0} for r in t.reports] for t in (plain, observed)]
    assert metrics[0] == metrics[1]
    assert len(observer.history.moments) == 1 + (observed.run.step // every if every else 3)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in observed.model.parameters())


# --- what it measures ---


class Reference(Hook):
    """The same numbers from plain definitions; it stands before everything that clips."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, float]] = []
        self.ratios: list[dict[str, float]] = []
        self.old: dict[str, Tensor] = {}

    def layers(self, run: Run) -> dict[str, list[tuple[str, nn.Parameter]]]:
        found: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in run.model.named_parameters():
            found.setdefault(name.rpartition(".")[0], []).append((name, parameter))
        return found

    def before_step(self, run: Run) -> None:
        self.old = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
        self.gradients.append(
            {
                layer: float(torch.cat([p.grad.flatten() for _, p in own if p.grad is not None]).norm())
                for layer, own in self.layers(run).items()
            }
        )

    def after_step(self, run: Run) -> None:
        self.ratios.append(
            {
                layer: float(
                    torch.cat([(p.detach() - self.old[name]).flatten() for name, p in own]).norm()
                    / torch.cat([self.old[name].flatten() for name, _ in own]).norm()
                )
                for layer, own in self.layers(run).items()
            }
        )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_unclipped_and_updates_are_those_made(accumulate: int) -> None:
    """With and without clipping: SGD with a tiny rate leaves the first gradients the same."""
    observer, reference = Observer(PROBES["rows"], 1), Reference()
    config = Config(lr=1e-12, batch_size=20, optimizer="sgd", accumulate=accumulate)
    trained(with_hooks(rows_task(), reference), config, 1)
    trained(with_hooks(rows_task(), observer), Config(**config, clip_norm=1e-3), 1)
    assert len(observer.history.moments) == 1 + len(reference.gradients)
    for moment, expected in zip(observer.history.moments[1:], reference.gradients, strict=True):
        for layer, norm in expected.items():
            assert moment.layers[layer].gradient_norm == pytest.approx(norm, rel=1e-4)


def test_the_update_ratio_is_the_change_by_the_size_of_the_weights() -> None:
    observer, reference = Observer(PROBES["rows"], 1), Reference()
    config = Config(lr=0.01, batch_size=20, optimizer="adam", clip_norm=0.5)
    trained(with_hooks(rows_task(), observer, reference), config, 2)
    for moment, expected in zip(observer.history.moments[1:], reference.ratios, strict=True):
        for layer, ratio in expected.items():
            assert moment.layers[layer].update_ratio == pytest.approx(ratio, rel=1e-4)


def test_the_first_moment_is_the_untrained_network_and_the_others_are_ends_of_epochs() -> None:
    observer = Observer(PROBES["text"])
    training = trained(with_hooks(text_task(), observer), Config(lr=0.01, batch_size=4), 2)
    history = observer.history
    steps = training.run.steps_per_epoch
    assert [(m.step, m.epoch) for m in history.moments] == [(0, 0), (steps, 1), (2 * steps, 2)]
    assert history.layers == ["embedding", "recurrent.layers.0", "output"]
    assert math.isnan(history.curve("output", "gradient_norm")[0])
    last = history.moments[-1].layers["recurrent.layers.0"]
    model = training.model.eval()
    layer: Any = model.recurrent.layers[0]
    with torch.no_grad():
        expected = {n: openness(g) for n, g in gates(layer, model.embedding(PROBES["text"][0])).items()}
    assert last.activity.gates == expected
    assert last.spectra == {n: spectrum(p) for n, p in layer.named_parameters() if p.dim() > 1}
    assert history.curve("recurrent.layers.0", "stable_rank")[-1] == last.spectra["weight_hh_l0"].stable_rank


def test_curves_have_every_measure_and_no_other() -> None:
    observer = Observer(PROBES["rows"])
    trained(with_hooks(rows_task("none"), observer), Config(lr=0.01, batch_size=16), 2)
    for measure in MEASURES:
        curve = observer.history.curve("hidden.0.linear", measure)
        assert len(curve) == 3 and all(math.isfinite(value) for value in curve[1:]) == (measure != "saturated")
    with pytest.raises(SettingError, match="gradient_norm"):
        observer.history.curve("output", "gradient")
    assert NetworkHistory().layers == []


def test_dead_units_are_noticed_when_they_die() -> None:
    """Inputs that are all positive, and a rate that throws weights to one side."""
    task = Task(lambda c: MLP(6, 3, 1, 16), (X.abs(), Y), (X.abs(), Y), device="cpu")
    observer = Observer((X.abs(),))
    config = Config(lr=100.0, batch_size=10, optimizer="sgd", clip_norm=1.0)
    trained(with_hooks(task, observer), config, 2)
    dead = observer.history.curve("hidden.0.linear", "dead")
    assert dead[0] < 0.3 and dead[-1] > 0.5


def test_frozen_and_sparse_parameters_are_understood() -> None:
    network = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    network[2].requires_grad_(False)
    tokens = torch.tensor([[1, 2], [2, 3], [1, 1]])
    run = Run(network, SGD(network[0].parameters(), lr=0.1), steps_per_epoch=1)
    hooks = Hooks([observer := Observer((tokens,))])
    hooks.begin(run)
    loss = nn.functional.cross_entropy(network(tokens), torch.tensor([0, 1, 2]))
    loss.backward()
    assert network[0].weight.grad is not None
    norm = float(network[0].weight.grad.to_dense().norm())
    hooks.before_step(run)
    run.optimizer.step()
    run.step += 1
    hooks.after_step(run)
    embedding, linear = observer.history.moments[-1].layers.values()
    assert embedding.gradient_norm == pytest.approx(norm) and embedding.update_ratio > 0
    assert math.isnan(linear.gradient_norm) and linear.update_ratio == 0


# --- pausing, and what is refused ---


def test_a_paused_trial_goes_on_with_its_history(tmp_path: Path) -> None:
    config = Config(lr=0.01, batch_size=16)
    whole, first, second = Observer(PROBES["rows"], 2), Observer(PROBES["rows"], 2), Observer(PROBES["rows"], 2)
    trained(with_hooks(rows_task(), whole), config, 2)
    job = Job(0, config, seed=7, until_epoch=1, max_epochs=2)
    begun = Training(with_hooks(rows_task(), first), job)
    begun.train_epoch()
    file = io.BytesIO()
    torch.save({"weights": begun.model.state_dict(), "state": begun.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    resumed = Training(with_hooks(rows_task(), second), job)
    resumed.load(stored["weights"], stored["state"])
    resumed.train_epoch()
    assert repr(second.history) == repr(whole.history) and len(whole.history.moments) == 6


@pytest.mark.parametrize(("probe", "every"), [((), None), ((torch.tensor(1.0),), None), ((X,), 0)])
def test_a_wrong_setting_is_refused(probe: tuple[Tensor, ...], every: int | None) -> None:
    with pytest.raises(SettingError, match="give a"):
        Observer(probe, every)


def test_no_compiler_is_imported_to_look() -> None:
    code = (
        "import sys, torch\n"
        "from rheostat.train import network, units\n"
        "net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())\n"
        "network.summary(net, (torch.ones(2, 2),)); units.activity(net, (torch.ones(2, 2),))\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
