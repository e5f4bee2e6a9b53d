"""The multilayer perceptron: equal to the textbook's stack of layers, and begun as its papers say."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from rheostat.errors import TaskError
from rheostat.models import mlp
from rheostat.models.mlp import ACTIVATIONS, HYPERPARAMETERS, MLP, NORMS

BY_HAND = {
    "relu": F.relu,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + (-x).exp()),
    "tanh": torch.tanh,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@given(st.integers(1, 20), st.integers(1, 10), st.integers(0, 4), st.integers(1, 16), st.sampled_from(list(NORMS)))
def test_the_number_of_parameters(inputs, outputs, layers, units, norm):
    last = units if layers else inputs
    weights = (inputs * units + (layers - 1) * units * units if layers else 0) + last * outputs
    # a hidden layer has a bias, or with batch norm a scale and a shift, or with layer norm all three
    others = {"none": 1, "batch": 2, "layer": 3}[norm] * units * layers + outputs
    assert parameters(MLP(inputs, outputs, layers, units, norm=norm)) == weights + others


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equal_to_a_stack_by_hand(activation):
    torch.manual_seed(0)
    network = MLP(5, 3, layers=2, units=7, activation=activation)
    weights = list(network.parameters())
    x = torch.randn(11, 5)
    hidden = BY_HAND[activation](x @ weights[0].T + weights[1])
    hidden = BY_HAND[activation](hidden @ weights[2].T + weights[3])
    assert torch.allclose(network(x), hidden @ weights[4].T + weights[5], atol=1e-6)


@pytest.mark.parametrize(("norm", "module"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_order_within_a_layer(norm, module):
    torch.manual_seed(0)
    network = MLP(5, 3, layers=1, units=7, activation="tanh", dropout=0.4, norm=norm)
    by_hand = nn.Sequential(
        nn.Linear(5, 7, bias=norm != "batch"), module(7), nn.Tanh(), nn.Dropout(0.4), nn.Linear(7, 3)
    )
    by_hand.load_state_dict(dict(zip(by_hand.state_dict(), network.state_dict().values(), strict=True)))
    x = torch.randn(11, 5)
    for mode in (True, False):
        results = []
        for each in (network.train(mode), by_hand.train(mode)):
            torch.manual_seed(1)
            results.append(each(x))
        assert torch.equal(*results)


def test_no_layers_make_a_linear_model_whatever_the_activation():
    network = MLP(5, 3, layers=0, activation="tanh", dropout=0.5, norm="batch")
    x = torch.randn(4, 5)
    assert torch.allclose(network(x), x @ network.output.weight.T + network.output.bias)


def test_examples_of_any_shape_are_flattened():
    network = MLP(24, 3)
    x = torch.randn(6, 2, 3, 4)
    assert torch.equal(network(x), network(x.reshape(6, 24)))


def test_settings_do_not_change_the_names_of_weights():
    plain = set(MLP(4, 2).state_dict())
    assert plain == set(MLP(4, 2, dropout=0.5, activation="tanh").state_dict())
    assert plain < set(MLP(4, 2, norm="layer").state_dict())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_initial_weights_are_of_the_size_that_the_papers_give(activation, gain):
    torch.manual_seed(0)
    network = MLP(300, 400, layers=2, units=200, activation=activation, init=gain)
    first, second, last = (m for m in network.modules() if isinstance(m, nn.Linear))
    glorot = {"tanh": 1, "sigmoid": 16}  # times 2 / (fan in + fan out)
    for layer, fan_in, fan_out in ((first, 300, 200), (second, 200, 200)):
        expected = glorot[activation] * 2 / (fan_in + fan_out) if activation in glorot else 2 / fan_in
        # the variance of n normal numbers has a standard error of sqrt(2 / n), here below 0.8 %
        assert layer.weight.var().item() == pytest.approx(gain**2 * expected, rel=0.035)
        assert abs(layer.weight.mean().item()) < 5 * gain * math.sqrt(expected / layer.weight.numel())
    assert last.weight.var().item() == pytest.approx(gain**2 / 200, rel=0.035)
    assert all((m.bias == 0).all() for m in (first, second, last))


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sigmoid"])
def test_the_first_loss_is_near_the_logarithm_of_the_number_of_classes(activation):
    losses = []
    for seed in range(5):
        torch.manual_seed(seed)
        network = MLP(64, 10, layers=3, activation=activation)
        losses.append(F.cross_entropy(network(torch.randn(500, 64)), torch.randint(10, (500,))).item())
    assert abs(sum(losses) / 5 - math.log(10)) < 0.5 * math.log(10)


def test_the_seed_decides_the_weights():
    def made(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in MLP(6, 3, norm="layer").parameters()])

    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_several_train_as_one_program(norm):
    torch.manual_seed(0)
    networks = [MLP(6, 3, units=8, norm=norm) for _ in range(4)]
    weights, buffers = stack_module_state(networks)
    x, y = torch.randn(4, 10, 6), torch.randint(3, (4, 10))  # (K, B, inputs), (K, B)

    def loss(weights, buffers, x, y):
        return F.cross_entropy(functional_call(networks[0], (weights, buffers), (x,)), y)

    gradients = vmap(torch.func.grad(loss))(weights, buffers, x, y)
    for lane, network in enumerate(networks):
        F.cross_entropy(network(x[lane]), y[lane]).backward()
        for name, parameter in network.named_parameters():
            assert torch.allclose(gradients[name][lane], parameter.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": -1}, "layers=-1: give a whole number from 0"),
        ({"layers": 1.5}, "layers=1.5"),
        ({"layers": True}, "layers=True"),
        ({"units": 0}, "units=0: give a whole number from 1"),
        ({"inputs": 0}, "inputs=0"),
        ({"outputs": 0}, "outputs=0"),
        ({"activation": "rely"}, "Unknown activation 'rely'. Did you mean 'relu'"),
        ({"norm": "bach"}, "Unknown norm 'bach'. Did you mean 'batch'"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": math.nan}, "dropout=nan"),
        ({"init": 0.0}, "init=0.0 must be a positive number"),
    ],
)
def test_values_that_are_not_allowed(settings, words):
    with pytest.raises(TaskError, match=words):
        MLP(**{"inputs": 4, "outputs": 2, **settings})


def test_hyperparameters_are_arguments():
    MLP(4, 2, **dict(zip(HYPERPARAMETERS, (1, 8, "silu", 0.1, "layer"), strict=True)))


def test_example_in_docstring():
    results = doctest.testmod(mlp)
    assert results.attempted and not results.failed
