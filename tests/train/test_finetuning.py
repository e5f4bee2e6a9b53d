"""Fine-tuning: layers as they are found, rates by the formula, and frozen layers that do not change in a bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cloudpickle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.errors import TaskError
from rheostat.space import Space
from rheostat.train.finetuning import HYPERPARAMETERS, FineTuned, fine_tuning_space
from rheostat.train.loop import Training, check
from rheostat.train.task import Task
from rheostat.types import Config, Job

# -- networks as people have them ----------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn1(self.conv1(x)) + self.downsample(x))


class ResNet(nn.Module):
    """The structure of torchvision's: a stem, lists of blocks, and `fc`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 8), nn.Dropout(0.5))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


@dataclass
class Output:
    """What networks of Hugging Face return."""

    logits: Tensor


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 8))
        self.embeddings = nn.Linear(16, 8)
        self.encoder = Encoder()
        self.norm = nn.LayerNorm(8)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.norm(self.encoder(self.embeddings(pixel_values.view(-1, 4, 16)) + self.position))


class ForClassification(nn.Module):
    """The structure of Hugging Face's: a backbone within, and a `classifier`; the call returns an object."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, classes)  # registered before what comes before it
        self.backbone = Backbone()

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(self.classifier(self.backbone(pixel_values).mean(1)))


class Logits(nn.Module):
    """As in docs/finetuning.md."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits


def names(model: nn.Module, head: str, *blocks: str) -> dict[str, list[str]]:
    """The layers, and what each of them holds."""
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = FineTuned(lambda config: model, head, blocks).layers(model)
    assert sorted(of[id(p)] for layer in layers for p in layer.parameters) == sorted(of.values())  # each of them once
    return {layer.name: [of[id(p)] for p in layer.parameters] for layer in layers}


def test_the_layers_of_a_residual_network() -> None:
    found = names(ResNet(5), "fc")
    assert list(found) == ["conv1", "layer1.0", "layer1.1", "layer2.0", "fc"]
    assert found["conv1"] == ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"]
    assert len(found["layer1.0"]) == 8 and found["fc"] == ["fc.weight", "fc.bias"]


def test_the_layers_of_a_network_within_a_network() -> None:
    found = names(Logits(ForClassification(5)), "network.classifier")
    inside = "network.backbone"
    layers = [f"{inside}.encoder.layer.{i}" for i in range(3)]
    assert list(found) == [f"{inside}.embeddings", *layers, "network.classifier"]
    assert f"{inside}.position" in found[f"{inside}.embeddings"]
    assert f"{inside}.norm.weight" in found[layers[2]]


def test_a_backbone_in_a_sequence_is_opened() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 2))
    assert list(names(model, "1")) == ["0.0", "0.2", "1"]
    assert list(names(nn.Sequential(model, nn.Flatten()), "0.1")) == ["0.0.0", "0.0.2", "0.1"]


def test_layers_by_name() -> None:
    found = names(ResNet(5), "fc", "layer1", "layer2")
    assert list(found) == ["layer1", "layer2", "fc"] and "conv1.weight" in found["layer1"]


def test_a_shared_parameter_is_in_the_first_layer_that_has_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert names(model, "2")["2"] == ["2.bias"]


# -- rates ---------------------------------------------------------------------------------------------------


def tuned(**options: Any) -> FineTuned:
    return FineTuned(lambda config: ResNet(5), "fc", **options)


@given(st.floats(0.1, 1), st.integers(0, 4), st.floats(0.1, 100))
def test_the_rate_falls_by_the_same_factor_from_layer_to_layer(decay: float, frozen: int, head: float) -> None:
    config = Config(layer_decay=decay, frozen_layers=frozen, head_lr_scale=head)
    network = FineTuned(lambda config: nn.Sequential(*(nn.Linear(2, 2) for _ in range(5))), "4")
    model = network(config)
    groups = network.groups(model, config)
    assert [g.lr_scale for g in groups] == pytest.approx([decay ** (5 - i) for i in range(1 + frozen, 5)] + [head])
    trained = {id(p) for group in groups for p in group.parameters}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_without_hyperparameters_all_is_trained_at_one_rate() -> None:
    model = tuned()(Config())
    groups = tuned().groups(model, Config())
    assert {group.lr_scale for group in groups} == {1.0}
    assert sum(len(group.parameters) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layer_decay": 0.0}, "greater than 0 and at most 1"),
        ({"layer_decay": 1.1}, "greater than 0 and at most 1"),
        ({"head_lr_scale": -1}, "greater than 0"),
        ({"frozen_layers": 5}, "from 0 to 4, for the layers below the head are conv1, layer1.0"),
        ({"frozen_layers": 0.5}, "whole number"),
        ({"frozen_layers": True}, "whole number"),
    ],
)
def test_values_that_are_not_allowed(wrong: dict[str, Any], words: str) -> None:
    config = Config(wrong)
    with pytest.raises(TaskError, match=words):
        tuned().groups(tuned()(config), config)


@pytest.mark.parametrize(
    ("head", "blocks", "words"),
    [
        ("fcc", (), "Did you mean 'fc'"),
        ("", (), "Unknown module ''"),
        ("fc", ("layer1", "layer3"), "Did you mean 'layer"),
        ("layer2.1", (), "no parameters of its own"),
    ],
)
def test_names_that_are_not_there(head: str, blocks: tuple[str, ...], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        FineTuned(lambda config: ResNet(5), head, blocks)(Config(frozen_layers=1))


def test_a_network_of_one_layer_cannot_be_fine_tuned() -> None:
    with pytest.raises(TaskError, match="no layers below its head"):
        FineTuned(lambda config: nn.Sequential(nn.Linear(2, 2)), "0")(Config())


# -- digits: five classes learnt, then the other five --------------------------------------------------------


def digits(high: bool) -> tuple[Tensor, Tensor]:
    data = load_digits()
    x, y = torch.from_numpy(data.data).float().div(8).sub(1).view(-1, 1, 8, 8), torch.from_numpy(data.target)
    chosen = (y >= 5) == high
    return x[chosen], y[chosen] - 5 * high


@cache
def pretrained() -> dict[str, Tensor]:
    """Weights that tell 0 to 4 apart."""
    torch.manual_seed(0)
    model, (x, y) = ResNet(5), digits(high=False)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for rows in torch.randint(len(x), (80, 64)):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.state_dict()


def with_a_new_head(config: Config) -> nn.Module:
    model = ResNet(5)
    model.load_state_dict(pretrained())
    model.fc = nn.Linear(8, 5)
    return model


def task(network: FineTuned, part: slice = slice(None)) -> Task:
    x, y = digits(high=True)
    return Task(
        network,
        (x[:600][part], y[:600][part]),
        (x[600:], y[600:]),
        groups=network.groups,
        device="cpu",
        metrics=("error",),
    )


def trained(config: Config, epochs: int, part: slice = slice(None)) -> Training:
    each = cloudpickle.loads(cloudpickle.dumps(task(FineTuned(with_a_new_head, "fc"), part)))
    training = Training(each, Job(0, config, seed=1, until_epoch=epochs, max_epochs=epochs))
    for _ in range(epochs):
        training.train_epoch()
    return training


CONFIG = {"lr": 0.01, "optimizer": "adamw", "weight_decay": 0.1, "batch_size": 64, "clip_norm": 1.0}


@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_frozen_layers_keep_every_bit_and_the_others_learn(frozen: int) -> None:
    training = trained(Config(CONFIG, frozen_layers=frozen, layer_decay=0.5, head_lr_scale=3.0), 2)
    after = training.model.state_dict()
    layers = ["conv1 bn1", "layer1.0", "layer1.1", "layer2", "fc"]
    for position, prefixes in enumerate(layers):
        for prefix in prefixes.split():
            for name in (name for name in after if name.startswith(f"{prefix}.")):
                # weights, and the running means and variances and counts of batch normalisation
                same = torch.equal(after[name], pretrained()[name])
                assert same == (position < frozen), name
    assert all((parameter.grad is None) == (not parameter.requires_grad) for parameter in training.model.parameters())


def test_frozen_layers_stay_in_evaluation_mode_and_no_others() -> None:
    model = FineTuned(with_a_new_head, "fc")(Config(frozen_layers=2)).train()
    x, _ = digits(high=True)
    model(x)
    modes = {name: module.training for name, module in model.named_modules()}
    evaluated = {name for name, training in modes.items() if not training}
    inside = {"conv1", "bn1", "downsample", "downsample.0", "downsample.1"}
    assert evaluated == {"conv1", "bn1", "layer1.0", *(f"layer1.0.{name}" for name in inside)}


def test_each_group_has_its_rate_at_every_step() -> None:
    config = Config(CONFIG, schedule="cosine", warmup=0.2, layer_decay=0.5, head_lr_scale=3.0, frozen_layers=1)
    network = FineTuned(with_a_new_head, "fc")
    training = Training(task(network), Job(0, config, seed=1, until_epoch=2, max_epochs=2))
    seen = []
    step = training.optimizer.step

    def watched(*arguments: Any) -> Any:
        seen.append([group["lr"] for group in training.optimizer.param_groups])
        return step(*arguments)

    training.optimizer.step = watched  # type: ignore[method-assign]
    training.train_epoch()
    assert len(seen) == training.run.step > 5
    for number, rates in enumerate(seen):
        assert rates == pytest.approx([training.rate(number) * scale for scale in (0.125, 0.25, 0.5, 3.0)])


def test_what_was_learnt_before_helps() -> None:
    """20 examples for a new head, on trained layers and on random ones."""
    few = slice(0, 20)
    config = Config(lr=0.03, batch_size=20, frozen_layers=4)
    error = trained(config, 30, few).reports[-1].metrics["val_error"]
    network = FineTuned(lambda config: ResNet(5), "fc")
    untrained = Training(task(network, few), Job(0, config, seed=1, until_epoch=30, max_epochs=30))
    for _ in range(30):
        untrained.train_epoch()
    assert error < untrained.reports[-1].metrics["val_error"] - 0.1


def test_hyperparameters_are_known_and_mistyped_ones_are_not() -> None:
    values = {"layer_decay": 0.8, "frozen_layers": 1, "head_lr_scale": 2.0}
    assert set(values) == set(HYPERPARAMETERS)
    check(task(FineTuned(with_a_new_head, "fc")), Config(CONFIG, **values))
    with pytest.raises(TaskError, match="Did you mean 'layer_decay'"):
        check(task(FineTuned(with_a_new_head, "fc")), Config(CONFIG, layer_decai=0.8))


def test_a_network_that_returns_an_object_is_wrapped() -> None:
    network = FineTuned(lambda config: Logits(ForClassification(5)), "network.classifier")
    config = Config(lr=0.001, batch_size=64, frozen_layers=2, layer_decay=0.7)
    training = Training(task(network), Job(0, config, seed=1, until_epoch=1, max_epochs=1))
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.train_epoch()
    changed = {name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])}
    inside = "network.backbone"
    assert not any(
        name.startswith((f"{inside}.embeddings", f"{inside}.position", f"{inside}.encoder.layer.0")) for name in changed
    )
    assert {f"{inside}.norm.weight", "network.classifier.weight", f"{inside}.encoder.layer.1.linear1.weight"} <= changed


# -- the space -----------------------------------------------------------------------------------------------


def test_the_space_for_fine_tuning() -> None:
    space = Space(fine_tuning_space(4))
    lr = space["lr"]
    assert (lr.low, lr.high, lr.log) == (1e-6, 1e-3, True) and lr.prior is not None and lr.prior.value == 5e-5  # type: ignore[union-attr]
    assert set(HYPERPARAMETERS) <= set(space)
    network = FineTuned(with_a_new_head, "fc")
    for corner in (0.0, 0.5, 0.999):
        config = space.decode([corner] * len(space))
        check(task(network), config)
