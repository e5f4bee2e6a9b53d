"""The convolutional network: equal to torch's layers by hand, in every combination of its settings."""

from __future__ import annotations

import doctest
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from rheostat.errors import TaskError
from rheostat.models import cnn
from rheostat.models.cnn import CNN, HYPERPARAMETERS, MOST_STAGES, NORMS, POOLINGS, stages_of
from rheostat.models.layers import ACTIVATIONS

SHAPES = [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (1, 64, 64), (3, 64, 64)]


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def pictures(shape, number=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, *shape), dtype=torch.uint8, generator=generator)


def by_hand(norm, pool, means, scales):
    """Three convolutions at 16, 8 and 4 pixels, as torch's modules one after another."""
    norms = {
        "none": lambda channels: [],
        "batch": lambda channels: [nn.BatchNorm2d(channels)],
        "group": lambda channels: [nn.GroupNorm(channels // 8, channels)],
    }[norm]
    bias = norm == "none"

    class Standardised(nn.Module):
        def forward(self, x):
            return (x - torch.tensor(means).view(1, -1, 1, 1)) / torch.tensor(scales).view(1, -1, 1, 1)

    return nn.Sequential(
        Standardised(),
        *(nn.Conv2d(3, 8, 5, padding=2, bias=bias), pool(2), *norms(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, padding=2, bias=bias), pool(2), *norms(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 5, padding=2, bias=bias), *norms(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(32, 7)),
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("pooling", "pool"), [("max", nn.MaxPool2d), ("average", nn.AvgPool2d)])
def test_equal_to_a_stack_by_hand(norm, pooling, pool):
    torch.manual_seed(0)
    means, scales = (100.0, 120.0, 140.0), (50.0, 60.0, 70.0)
    given_settings = {"layers": 3, "channels": 8, "kernel_size": 5, "norm": norm, "pooling": pooling, "dropout": 0.4}
    network = CNN((3, 16, 16), 7, **given_settings, means=means, scales=scales)
    reference = by_hand(norm, pool, means, scales)
    assert parameters(network) == parameters(reference)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    x = pictures((3, 16, 16), 6)
    for mode in (True, True, False):  # twice in training, so that the averages of batch norm have moved
        torch.manual_seed(1)
        result = network.train(mode)(x)
        torch.manual_seed(1)
        assert torch.allclose(result, reference.train(mode)(x.float()), atol=1e-4)
    F.cross_entropy(network(x), torch.arange(6)).backward()
    F.cross_entropy(reference(x.float()), torch.arange(6)).backward()
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_residual_adds_the_input_pooled_alike_where_channels_are_equal(pooling):
    torch.manual_seed(0)
    network = CNN((1, 14, 14), 3, layers=5, channels=4, norm="none", pooling=pooling, residual=True, activation="tanh")
    assert stages_of(5, 14, 14) == [0, 1, 1, 2, 2]
    pool = F.max_pool2d if pooling == "max" else F.avg_pool2d
    weights = [block.body.convolution for block in network.blocks]
    raw = pictures((1, 14, 14)) // 100
    x = raw.float()
    for layer, (convolution, pooled, added) in enumerate(
        zip(weights, (1, 0, 1, 0, 0), (0, 0, 1, 0, 1), strict=True)  # 1 to 4 channels, 4 to 8, 8, 8 to 16, 16
    ):
        y = F.conv2d(x, convolution.weight, convolution.bias, padding=1)
        y = torch.tanh(pool(y, 2) if pooled else y)
        x = y + (pool(x, 2) if pooled else x) if added else y
        assert x.shape[1] == [4, 8, 8, 16, 16][layer]
    expected = x.mean((2, 3)) @ network.output.weight.T + network.output.bias
    assert torch.allclose(network(raw), expected, atol=1e-5)


def test_without_residual_nothing_is_added():
    torch.manual_seed(0)
    plain, residual = (CNN((1, 8, 8), 3, layers=4, residual=r, norm="none") for r in (False, True))
    residual.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(pictures((1, 8, 8))), residual(pictures((1, 8, 8))), atol=1e-3)


@given(
    st.sampled_from(SHAPES),
    st.fixed_dictionaries(
        {
            "layers": st.integers(1, 8),
            "channels": st.integers(1, 12),
            "kernel_size": st.sampled_from([1, 3, 5, 7]),
            "norm": st.sampled_from(NORMS),
            "pooling": st.sampled_from(list(POOLINGS)),
            "residual": st.booleans(),
            "dropout": st.sampled_from([0.0, 0.5]),
            "activation": st.sampled_from(list(ACTIVATIONS)),
        }
    ),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_allowed_combination_trains(shape, chosen, outputs):
    torch.manual_seed(0)
    network = CNN(shape, outputs, **chosen, means=[120.0] * shape[0], scales=[70.0] * shape[0])
    scores = network(pictures(shape, 2))
    assert scores.shape == (2, outputs) and scores.isfinite().all()
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    widths = [shape[0], *(chosen["channels"] * 2**stage for stage in stages_of(chosen["layers"], *shape[1:]))]
    extra = 1 if chosen["norm"] == "none" else 2  # the bias, or scale and shift of the norm
    expected = sum(a * b * chosen["kernel_size"] ** 2 + extra * b for a, b in itertools.pairwise(widths))
    assert parameters(network) == expected + (widths[-1] + 1) * outputs


@given(st.integers(1, 20), st.integers(1, 300), st.integers(1, 300))
def test_stages(layers, height, width):
    stages = stages_of(layers, height, width)
    assert len(stages) == layers and stages[0] == 0
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(stages))
    side = min(height, width)
    assert stages[-1] == 0 or side // 2 ** stages[-1] >= 3
    if stages[-1] + 1 < min(layers, MOST_STAGES):
        assert side // 2 ** (stages[-1] + 1) < 3  # there is no more to pool
    counts = [stages.count(stage) for stage in range(stages[-1] + 1)]
    if len(counts) > 1:
        assert counts[0] == 1 and max(counts[1:]) - min(counts[1:]) <= 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 9), (1, 5, 300)])
def test_very_small_and_very_long_pictures(shape):
    assert CNN(shape, 3, layers=4, channels=2)(pictures(shape)).shape == (4, 3)


def test_numbers_are_taken_as_bytes_are():
    torch.manual_seed(0)
    network = CNN((3, 9, 9), 2).eval()
    x = pictures((3, 9, 9))
    assert torch.equal(network(x), network(x.float())) and torch.equal(network(x), network(x.long()))


def test_all_is_computed_with_channels_last():
    network = CNN((1, 28, 28), 2)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output))
    network(pictures((1, 28, 28)))
    assert len(seen) == 6 and all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)


def test_the_order_of_the_input_in_memory_changes_nothing():
    torch.manual_seed(0)
    network = CNN((3, 20, 20), 2).eval()
    x = pictures((3, 20, 20))
    assert torch.allclose(network(x), network(x.contiguous(memory_format=torch.channels_last)), atol=1e-6)


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 1), (12, 1), (16, 2), (20, 2), (24, 3), (64, 8)])
def test_groups_have_about_eight_channels(channels, groups):
    network = CNN((1, 8, 8), 2, layers=1, channels=channels, norm="group")
    assert network.blocks[0].body.norm.num_groups == groups


def test_settings_do_not_change_the_names_of_weights():
    plain = set(CNN((1, 16, 16), 2, norm="none").state_dict())
    others = {"dropout": 0.5, "activation": "tanh", "pooling": "average", "residual": True}
    assert plain == set(CNN((1, 16, 16), 2, norm="none", **others).state_dict())


@pytest.mark.parametrize("gain", [1.0, 0.5])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_initial_weights_are_of_the_size_that_the_papers_give(activation, gain):
    torch.manual_seed(0)
    network = CNN((3, 16, 16), 400, layers=2, channels=64, activation=activation, init=gain)
    weights = network.blocks[1].body.convolution.weight  # (128, 64, 3, 3)
    expected = 2 / (64 * 9) if activation == "relu" else 2 / (64 * 9 + 128 * 9)
    assert weights.var().item() == pytest.approx(gain**2 * expected, rel=0.035)
    assert network.output.weight.var().item() == pytest.approx(gain**2 / 128, rel=0.035)


def test_the_seed_decides_the_weights():
    def made(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in CNN((1, 8, 8), 3).parameters()])

    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))


@pytest.mark.parametrize("norm", ["none", "group"])
def test_several_train_as_one_program(norm):
    torch.manual_seed(0)
    networks = [CNN((1, 12, 12), 3, layers=3, channels=4, norm=norm, residual=True) for _ in range(3)]
    weights, buffers = stack_module_state(networks)
    weights = {name: w.detach().contiguous() for name, w in weights.items()}  # vmap has no channels last
    x, y = torch.stack([pictures((1, 12, 12), 5, seed) for seed in range(3)]), torch.randint(3, (3, 5))  # (K, B, ...)

    def loss(weights, buffers, x, y):
        return F.cross_entropy(functional_call(networks[0], (weights, buffers), (x,)), y)

    gradients = vmap(torch.func.grad(loss))(weights, buffers, x, y)
    for lane, network in enumerate(networks):
        F.cross_entropy(network(x[lane]), y[lane]).backward()
        for name, parameter in network.named_parameters():
            assert torch.allclose(gradients[name][lane], parameter.grad, rtol=1e-3, atol=1e-3)


def test_it_learns_to_tell_stripes_apart():
    torch.manual_seed(0)
    y = torch.randint(2, (64,))
    stripes = (torch.arange(8) // 2 % 2 * 100).expand(8, 8)
    x = torch.where(y.view(-1, 1, 1, 1) == 0, stripes, stripes.T).add(torch.randint(100, (64, 1, 8, 8))).byte()
    network = CNN((1, 8, 8), 2, layers=2, channels=4, means=[100.0], scales=[60.0])
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    assert (network.eval()(x).argmax(1) == y).all()


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"shape": (28, 28)}, r"shape=\(28, 28\) must be \(channels, height, width\)"),
        ({"shape": (0, 28, 28)}, "colours=0: give a whole number from 1"),
        ({"shape": (1, 28, 0)}, "width=0"),
        ({"outputs": 0}, "outputs=0"),
        ({"layers": 0}, "layers=0: give a whole number from 1"),
        ({"layers": 2.0}, "layers=2.0"),
        ({"channels": 0}, "channels=0"),
        ({"kernel_size": 4}, "kernel_size=4: give an odd number"),
        ({"kernel_size": -3}, "kernel_size=-3"),
        ({"norm": "bach"}, "Unknown norm 'bach'. Did you mean 'batch'"),
        ({"norm": "layer"}, "Unknown norm 'layer'"),
        ({"pooling": "avg"}, "Unknown pooling 'avg'.*max, average"),
        ({"activation": "rely"}, "Unknown activation 'rely'. Did you mean 'relu'"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"init": math.nan}, "init=nan must be a positive number"),
        ({"means": (1.0, 2.0)}, r"means=\(1.0, 2.0\): give a number for each of the 1 channels"),
        ({"scales": (0.0,)}, r"scales=\(0.0,\): give a number greater than 0"),
        ({"scales": (math.inf,)}, r"scales=\(inf,\)"),
    ],
)
def test_values_that_are_not_allowed(chosen, words):
    with pytest.raises(TaskError, match=words):
        CNN(**{"shape": (1, 28, 28), "outputs": 2, **chosen})


def test_hyperparameters_are_arguments():
    CNN((1, 8, 8), 2, **dict(zip(HYPERPARAMETERS, (1, 8, 5, "group", "average", True, 0.1, "silu"), strict=True)))


def test_examples_in_docstrings():
    results = doctest.testmod(cnn)
    assert results.attempted and not results.failed
