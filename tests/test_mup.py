"""Width transfer: the rules against tables of the paper written out by hand, coordinates, and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.mup import best
from rheostat.errors import SettingError, TaskError
from rheostat.models.cnn import CNN
from rheostat.models.language_model import Transformer
from rheostat.models.mlp import MLP
from rheostat.mup import Coordinates, Scaled, coordinate_check
from rheostat.train import optimizers
from rheostat.train.loop import Training, check
from rheostat.train.optimizers import Group
from rheostat.train.task import Task
from rheostat.types import Config, Job

VOCABULARY = 13


def mlp(config: Config) -> nn.Module:
    return MLP(20, 10, layers=3, units=config.units)


def transformer(config: Config) -> nn.Module:
    return Transformer(
        VOCABULARY, hidden=config.units, layers=2, heads=config.units // 16, tied=config.get("tied", True)
    )


def scales(network: Scaled, config: Config) -> dict[str, float]:
    """The factor of each parameter's learning rate, by name."""
    model = network(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = network.groups(model, config)
    return {names[id(p)]: group.lr_scale for group in groups for p in group.parameters}


def made(network: Any, config: Config) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network, scaled or not, and its optimiser as the training loop sets it."""
    torch.manual_seed(0)
    model = network(config)
    groups = network.groups(model, config) if isinstance(network, Scaled) else [Group(tuple(model.parameters()))]
    optimizer = optimizers.build(config, groups)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    return model, optimizer


def rms(values: Tensor) -> float:
    return float(values.detach().square().mean().sqrt())


def examples(n: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 20, generator=generator), torch.randint(10, (n,), generator=generator)


def sentences() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (8, 17), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


# -- the rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lion", "nadam", "rmsprop", "adagrad", None])
def test_learning_rates_by_table_3_for_adam_and_its_kin(optimizer: str | None) -> None:
    config = Config(units=256) if optimizer is None else Config(units=256, optimizer=optimizer)
    found = scales(Scaled(mlp, {"units": 64}), config)
    wider = {"hidden.1.linear.weight", "hidden.2.linear.weight", "output.weight"}
    assert found == {name: 1 / 4 if name in wider else 1.0 for name in found} and wider < found.keys()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_learning_rates_by_table_3_for_sgd(optimizer: str) -> None:
    found = scales(Scaled(mlp, {"units": 64}), Config(units=256, optimizer=optimizer))
    expected = {f"hidden.{i}.linear.bias": 4.0 for i in range(3)} | {"hidden.0.linear.weight": 4.0, "output.bias": 1.0}
    expected |= {"hidden.1.linear.weight": 1.0, "hidden.2.linear.weight": 1.0, "output.weight": 1 / 4}
    assert found == expected


def test_initial_values_by_table_3() -> None:
    """Normal with the He deviation at width 64; then 1 / fan-in for hidden weights, its square for the output's."""
    torch.manual_seed(0)
    model = Scaled(mlp, {"units": 64})(Config(units=1024))
    deviations = {name: rms(parameter) for name, parameter in model.named_parameters() if parameter.dim() == 2}
    assert deviations["hidden.0.linear.weight"] == pytest.approx(math.sqrt(2 / 20), rel=0.05)
    assert deviations["hidden.1.linear.weight"] == pytest.approx(math.sqrt(2 / 1024), rel=0.05)
    assert deviations["output.weight"] == pytest.approx(math.sqrt(1 / 64) / 16, rel=0.1)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40), st.sampled_from(["default", "constant"]))
def test_hidden_weights_begin_as_one_over_the_root_of_the_width(base: int, one: int, other: int, kind: str) -> None:
    """Whether the user's own deviation follows the width or not."""
    assume(base not in (one, other))

    def build(config: Config) -> nn.Module:
        model = nn.Sequential(nn.Linear(3, config.units), nn.Linear(config.units, config.units))
        if kind == "constant":
            nn.init.normal_(model.get_parameter("1.weight"), std=0.02)
        return model

    network = Scaled(build, {"units": base})
    sizes = [rms(network(Config(units=units)).get_parameter("1.weight")) for units in (one, other)]
    assert sizes[0] / sizes[1] == pytest.approx(math.sqrt(other / one), rel=1e-4)


def test_at_the_base_width_nothing_changes_and_elsewhere_the_draws_are_the_users() -> None:
    for units, factors in ((64, 1), (256, 2)):
        torch.manual_seed(5)
        plain = mlp(Config(units=units))
        after = torch.rand(3)
        torch.manual_seed(5)
        scaled = Scaled(mlp, {"units": 64})(Config(units=units))
        assert torch.equal(torch.rand(3), after)  # the generator is where the user's own builder leaves it
        for (name, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True):
            ratios = b.detach() / a.detach() if "weight" in name else torch.ones(1)
            assert float(ratios.std(correction=0)) < 1e-5 and (factors == 2 or torch.equal(a, b))


class Reference(nn.Module):
    """An MLP by table 8: the output has a multiplier, and weights and rates that do not know the width."""

    def __init__(self, weights: list[Tensor], growth: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(w.clone()) for w in weights])
        self.growth = growth

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights[:-1]:
            x = torch.relu(x @ weight.T)
        return x @ self.weights[-1].T / self.growth


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_trained_as_table_8_says(optimizer: str) -> None:
    """Tables 3 and 8 are two ways to write the same function: outputs agree after every update."""
    growth = 4.0

    def build(config: Config) -> nn.Module:
        sizes = [20, config.units, config.units, 10]
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Linear(sizes[i], sizes[i + 1], bias=False), nn.ReLU()]
        return nn.Sequential(*layers[:-1]).double()

    lr, x, y = 0.01, examples()[0].double(), examples()[1]
    config = Config(units=64, optimizer=optimizer, lr=lr, eps=1e-20)
    model, ours = made(Scaled(build, {"units": 16}), config)
    weights = [parameter.detach() for parameter in model.parameters()]
    reference = Reference([*weights[:-1], weights[-1] * growth], growth)
    rates = [lr, lr / growth, lr] if optimizer == "adam" else [lr * growth, lr, lr * growth]
    groups = [{"params": [w], "lr": r} for w, r in zip(reference.weights, rates, strict=True)]
    theirs = torch.optim.Adam(groups, eps=1e-20) if optimizer == "adam" else torch.optim.SGD(groups)
    for _ in range(10):
        outputs = [net(x) for net in (model, reference)]
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-9)
        for out, opt in zip(outputs, (ours, theirs), strict=True):
            opt.zero_grad()
            F.cross_entropy(out, y).backward()
            opt.step()
    assert not torch.allclose(outputs[0], Reference(weights, growth)(x), rtol=1e-3)


def test_a_tied_embedding_is_an_embedding_and_the_output_is_divided() -> None:
    config = Config(units=64, tied=True)
    network = Scaled(transformer, {"units": 32})
    torch.manual_seed(0)
    plain = transformer(config)
    model = network(config)
    assert scales(network, config)["embedding.weight"] == 1.0
    assert isinstance(model, Transformer) and model.output.weight is model.embedding.weight
    assert rms(model.embedding.weight) == pytest.approx(rms(plain.get_parameter("embedding.weight")), rel=0.2)
    x = torch.randn(3, 64)
    torch.testing.assert_close(model.output(x), x @ model.embedding.weight.T / 2)


def test_convolutions_recurrent_layers_and_parameters_of_ones_own() -> None:
    cnn = scales(Scaled(lambda c: CNN((1, 8, 8), 10, channels=c.channels), {"channels": 8}), Config(channels=32))
    assert cnn["output.weight"] == 1 / 4 and cnn["output.bias"] == 1
    assert cnn["blocks.0.body.convolution.weight"] == 1 and cnn["blocks.1.body.convolution.weight"] == 1 / 4
    lstm = scales(Scaled(lambda c: nn.LSTM(5, c.hidden), {"hidden": 8}), Config(hidden=16))
    assert lstm == {"weight_ih_l0": 1, "weight_hh_l0": 0.5, "bias_ih_l0": 1, "bias_hh_l0": 1}
    turned = nn.ConvTranspose2d
    back = scales(Scaled(lambda c: nn.Sequential(turned(c.n, 3, 2), turned(3, c.n, 2)), {"n": 4}), Config(n=8))
    assert back["0.weight"] == 0.5 and back["1.weight"] == 1

    class Own(nn.Module):
        def __init__(self, units: int) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, units))
            self.mix = nn.Parameter(torch.randn(units, units))
            self.out = nn.Parameter(torch.randn(units, 3))

    own = scales(Scaled(lambda c: Own(c.units), {"units": 4}, outputs=("out",)), Config(units=8))
    assert own == {"token": 1, "mix": 0.5, "out": 0.5}


# -- what cannot be scaled is said ---------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose weights another module uses in its own way."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, units)
        self.output = nn.Conv1d(units, 5, 1)
        self.output.weight = nn.Parameter(self.embedding.weight.detach()[..., None])
        self.embedding.weight = self.output.weight


@pytest.mark.parametrize(
    ("build", "base", "words"),
    [
        (mlp, {"unit": 64}, "Did you mean 'units'"),
        (lambda c: MLP(4, 2, layers=c.units // 8, units=c.units), {"units": 8}, "not which there are"),
        (lambda c: nn.MultiheadAttention(c.units, 2), {"units": 8}, "embed_dim // 4"),
        (lambda c: Tied(c.units), {"units": 8}, "Untie them"),
    ],
)
def test_errors(build: Callable[[Config], nn.Module], base: dict[str, int], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Scaled(build, base)(Config(units=16))


def test_an_output_that_is_not_there_and_a_single_width() -> None:
    with pytest.raises(TaskError, match=r"output\.weight"):
        Scaled(mlp, {"units": 8}, outputs=("outputs.weight",))(Config(units=16))
    with pytest.raises(SettingError, match="at least two"):
        coordinate_check(mlp, Config(), "units", [8, 8], examples())


# -- coordinates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "batch", "loss", "config"),
    [
        (mlp, examples(), F.cross_entropy, {"optimizer": "adam", "lr": 0.01}),
        (mlp, examples(), F.cross_entropy, {"optimizer": "lion", "lr": 0.01}),
        (transformer, sentences(), token_loss, {"optimizer": "adam", "lr": 0.01, "tied": True}),
        (transformer, sentences(), token_loss, {"optimizer": "adam", "lr": 0.01, "tied": False}),
    ],
    ids=["mlp-adam", "mlp-lion", "transformer-tied", "transformer"],
)
def test_coordinates_are_flat_under_mup_and_grow_without(
    build: Callable[[Config], nn.Module], batch: tuple[Tensor, Tensor], loss: Any, config: dict[str, Any]
) -> None:
    def slopes(network: Any) -> dict[str, float]:
        return coordinate_check(network, Config(config), "units", [32, 64, 128, 256], batch, loss, 4, 2).slopes()

    scaled, standard = slopes(Scaled(build, {"units": 32})), slopes(build)
    assert max(scaled.values()) < 0.15  # nothing grows
    assert min(scaled.values()) > -0.4  # what was zero at first may still be on its way
    assert max(standard.values()) > 0.3


def test_with_sgd_the_input_layer_learns_as_much_in_a_wide_network() -> None:
    """Its updates shrink as 1 / √width in the standard parametrisation."""

    def moved(network: Any, units: int) -> float:
        model, optimizer = made(network, Config(units=units, optimizer="sgd", lr=0.1))
        first = model.get_parameter("hidden.0.linear.weight")
        before = first.detach().clone()
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(examples()[0]), examples()[1]).backward()
            optimizer.step()
        return rms(first - before)

    scaled = Scaled(mlp, {"units": 64})
    assert moved(scaled, 1024) == pytest.approx(moved(scaled, 64), rel=0.5)
    assert moved(mlp, 1024) < moved(mlp, 64) / 3


def test_slopes_are_powers_of_the_width() -> None:
    widths = torch.tensor([[1.0, 2.0], [2.0, 8.0], [4.0, 32.0]])
    assert Coordinates((16, 32, 64), {"a": widths}).slopes() == {"a": pytest.approx(2.0)}
    assert Coordinates((16, 32, 64), {"a": widths}).slopes(0) == {"a": pytest.approx(1.0)}


def test_the_check_leaves_the_generators_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    coordinate_check(mlp, Config(lr=0.01), "units", [8, 16], examples(), updates=1, seeds=1)
    assert torch.equal(torch.rand(2), expected)


# -- in a task -----------------------------------------------------------------------------------------------


def task() -> Task:
    network = Scaled(mlp, {"units": 16})
    return Task(network, examples(), examples(), groups=network.groups, device="cpu")


def test_a_task_trains_with_the_rates_of_its_schedule() -> None:
    config = Config(units=64, lr=0.01, schedule="cosine", optimizer="adamw")
    training = Training(cloudpickle.loads(cloudpickle.dumps(task())), Job(0, config, 0, 2, 2))
    for _ in range(2):
        training.train_epoch()
        rate = training.rate(training.run.step - 1)
        assert [group["lr"] for group in training.optimizer.param_groups] == pytest.approx([rate, rate / 4])
    assert sum(len(group["params"]) for group in training.optimizer.param_groups) == 8


def test_a_mistyped_hyperparameter_is_still_found() -> None:
    with pytest.raises(TaskError, match="unitz"):
        check(task(), Config(units=64, unitz=3))


# -- the claim -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_learning_rate_stays_where_it_is_only_under_mup() -> None:
    """From width 32 to 512 on digits; benchmarks/mup.py goes further."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.from_numpy(digits.data).float().div(8).sub(1), torch.from_numpy(digits.target)
    rates = [10 ** (-4 + 0.5 * i) for i in range(7)]

    def loss(network: Any, units: int, lr: float) -> float:
        model, optimizer = made(network, Config(units=units, lr=lr))
        total = 0.0
        for step, rows in enumerate(torch.randint(len(x), (60, 32), generator=torch.Generator().manual_seed(1))):
            value = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += float(value.detach()) if step >= 40 else 0.0
        return total

    def moved(network: Any) -> float:
        first, last = (best({lr: loss(network, units, lr) for lr in rates}) for units in (32, 512))
        return abs(math.log10(last / first))

    def build(config: Config) -> nn.Module:
        return MLP(64, 10, layers=3, units=config.units)

    scaled, standard = moved(Scaled(build, {"units": 32})), moved(build)
    assert scaled <= 0.5 < standard, (scaled, standard)
