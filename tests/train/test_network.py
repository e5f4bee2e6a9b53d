from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from rheostat.errors import TaskError
from rheostat.models.cnn import CNN
from rheostat.models.language_model import RecurrentLanguageModel, Transformer
from rheostat.models.mlp import MLP
from rheostat.models.seq2seq import Seq2Seq
from rheostat.models.text_classifier import TextClassifier
from rheostat.train.network import Cost, LayerRow, summary, total

Network = tuple[nn.Module, tuple[Tensor, ...]]
TOKENS = torch.randint(4, 50, (4, 9), generator=torch.Generator().manual_seed(0))
ANEW = torch.ones(4, dtype=torch.bool)


def mlp() -> Network:
    return MLP(64, 10, norm="batch", dropout=0.5), (torch.randn(4, 64),)


def cnn() -> Network:
    return CNN((3, 16, 16), 10, channels=8, residual=True), (torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8),)


def texts() -> Network:
    return TextClassifier(50, 2, embedding=8, hidden=16, recurrent_layers=2), (TOKENS,)


def recurrent() -> Network:
    return RecurrentLanguageModel(50, "gru", hidden=32, embedding=16, tied=True, recurrent_layers=2), (TOKENS, ANEW)


def transformer() -> Network:
    return Transformer(50, hidden=32, layers=2, heads=2, dropout=0.1), (TOKENS, ANEW)


def translation() -> Network:
    network = Seq2Seq(50, 60, 16, "lstm", "gru", 32, attention="multiplicative", dropout=0.1, teacher_forcing=0.5)
    return network, (TOKENS, TOKENS[:, :7])


def torch_encoder() -> Network:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(4, 5, 16),)


FAMILIES = [mlp, cnn, texts, recurrent, transformer, translation, torch_encoder]


def costs(network: nn.Module, *inputs: Tensor) -> Cost:
    return total(summary(network, inputs))


def row(rows: tuple[LayerRow, ...], name: str) -> LayerRow:
    return next(r for r in rows if r.name == name)


def torchs_count(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Multiply-adds of the whole batch in evaluation mode, by torch's own counter, where no kernel hides them."""
    network.eval()
    counter = FlopCounterMode(display=False)
    torch.backends.mkldnn.set_flags(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            network(*inputs)
    finally:
        torch.backends.mkldnn.set_flags(True)
    return counter.get_total_flops() / 2


# --- sizes and operations ---


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_the_parameters_and_operations_that_torch_counts(family: Callable[[], Network]) -> None:
    torch.manual_seed(0)
    network, inputs = family()
    found = costs(network, *inputs)
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert found.parameter_bytes == 4 * found.parameters
    assert found.multiply_adds * 4 == torchs_count(network, inputs)


LAYERS: list[tuple[nn.Module, tuple[int, ...], int]] = [
    (nn.Linear(7, 5), (7,), 7 * 5),
    (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
    (nn.Conv1d(4, 6, 3), (4, 10), 8 * 6 * 4 * 3),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 8, 8), 4 * 4 * 6 * 2 * 9),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), 5 * 5 * 4 * 6 * 4),  # each input goes to each weight
    (nn.BatchNorm2d(4), (4, 5, 5), 0),
    (nn.LSTM(7, 5, batch_first=True), (11, 7), 11 * 4 * 5 * (7 + 5)),
    (nn.GRU(7, 5, 2, bidirectional=True, batch_first=True), (11, 7), 11 * 2 * 3 * 5 * ((7 + 5) + (10 + 5))),
    (nn.LSTM(7, 5, proj_size=3, batch_first=True), (11, 7), 11 * (4 * 5 * (7 + 3) + 5 * 3)),
    (nn.RNN(7, 5, bias=False, batch_first=True), (11, 7), 11 * 5 * (7 + 5)),
    (nn.LSTMCell(7, 5), (7,), 4 * 5 * (7 + 5)),
    (nn.GRUCell(7, 5), (7,), 3 * 5 * (7 + 5)),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("layer", "shape", "expected"), LAYERS, ids=lambda value: type(value).__name__)
def test_operations_of_single_layers_are_those_of_their_formulas(
    layer: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    assert costs(layer, torch.randn(3, *shape)).multiply_adds == expected


def test_an_embedding_multiplies_nothing() -> None:
    assert costs(nn.Embedding(9, 5), torch.zeros(3, 4, dtype=torch.long)) == Cost(45, 0, 180, 0, 0)


class Attending(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def test_attention_counts_as_its_two_products_whatever_kernel_runs_it() -> None:
    [found] = summary(Attending(), (torch.randn(3, 2, 7, 5),))
    assert (found.kind, found.cost.multiply_adds) == ("Attending", 2 * (2 * 7 * 7 * 5))


def test_multihead_attention_counts_the_parameters_of_the_layer_within_that_it_never_calls() -> None:
    [found] = summary(SelfAttention(), (torch.randn(3, 7, 8),))
    assert (found.name, found.kind, found.cost.parameters) == ("attention", "MultiheadAttention", 4 * 8 * 8 + 4 * 8)
    assert found.cost.multiply_adds == 4 * 7 * 8 * 8 + 2 * 7 * 7 * 8


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]  # type: ignore[no-any-return]


class Packing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(7, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        lengths = torch.arange(len(x), 0, -1)
        return self.layer(pack_padded_sequence(x, lengths, batch_first=True))[1]


def test_steps_that_are_padding_are_not_counted_where_sequences_are_packed() -> None:
    assert costs(Packing(), torch.randn(3, 3, 7)).multiply_adds == 2 * 3 * 5 * (7 + 5)  # 1, 2 and 3 steps


@settings(max_examples=25)
@given(data=st.data())
def test_networks_put_together_at_random_agree_with_torch(data: st.DataObject) -> None:
    channels, size = data.draw(st.integers(1, 4)), data.draw(st.integers(6, 9))
    layers: list[nn.Module] = []
    wide = channels
    for _ in range(data.draw(st.integers(0, 3))):
        kind = data.draw(st.sampled_from(["conv", "transposed", "norm", "relu", "dropout"]))
        after = data.draw(st.integers(1, 4))
        if kind in ("conv", "transposed"):
            layers.append((nn.Conv2d if kind == "conv" else nn.ConvTranspose2d)(wide, after, 3, padding=1))
            wide = after
        else:
            layers.append({"norm": nn.BatchNorm2d(wide), "relu": nn.ReLU(), "dropout": nn.Dropout(0.3)}[kind])
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * size * size, data.draw(st.integers(1, 5))))
    batch = data.draw(st.integers(2, 4))
    inputs = (torch.randn(batch, channels, size, size),)
    found = costs(network, *inputs)
    assert found.multiply_adds * batch == torchs_count(network, inputs)
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())


# --- rows ---


class Backwards(nn.Module):
    """Runs its layers in another order than it defines them, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.unused = nn.Linear(3, 3)
        self.first = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        x = self.first(self.first(x)) * self.gain
        return {"nothing": None, "scores": self.last(x)}


def test_rows_stand_in_the_order_of_execution_and_no_parameter_is_lost() -> None:
    rows = summary(Backwards(), (torch.randn(5, 4),))
    assert [(r.name, r.kind, r.shape, r.calls, r.cost.parameters, r.cost.multiply_adds) for r in rows] == [
        ("first", "Linear", (4,), 2, 20, 32),
        ("last", "Linear", (2,), 1, 10, 8),
        ("", "Backwards", (2,), 1, 4 + 12, 0),  # its own, and of the layer that never runs
    ]


def test_shared_parameters_count_where_they_run_first() -> None:
    rows = summary(RecurrentLanguageModel(50, hidden=16, embedding=16, tied=True), (TOKENS, ANEW))
    assert (row(rows, "embedding").cost.parameters, row(rows, "output").cost.parameters) == (50 * 16, 50)
    assert row(rows, "output").cost.multiply_adds == 9 * 16 * 50


def test_shapes_are_those_of_one_example() -> None:
    network, inputs = recurrent()
    assert [(r.name, r.shape) for r in summary(network, inputs)] == [
        ("embedding", (9, 16)),
        ("dropout", (9, 16)),
        ("recurrent.layers.0", (9, 32)),
        ("recurrent.between", (9, 32)),
        ("recurrent.layers.1", (9, 32)),
        ("narrow", (9, 16)),
        ("output", (9, 50)),
    ]
    steps_first = nn.Sequential(nn.Unflatten(1, (5, 2)), Steps(), nn.GRU(2, 6))
    assert [r.shape for r in summary(steps_first, (torch.randn(3, 10),))] == [(5, 2), (5, 2), (5, 6)]


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


# --- memory ---


def kept_in_the_graph(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Bytes that autograd holds after a pass, found by walking its graph."""
    torch.manual_seed(1)
    network.train()
    output = network(*inputs)
    there = {t.untyped_storage().data_ptr() for t in (*inputs, *network.parameters(), *network.buffers())}
    held: dict[int, int] = {}
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        for name in dir(node):
            if not name.startswith("_saved_"):
                continue
            value = getattr(node, name)
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in there:
                    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(held.values())


@pytest.mark.parametrize("family", [mlp, cnn, texts, transformer, torch_encoder])
def test_activations_are_what_the_graph_holds(family: Callable[[], Network]) -> None:
    torch.manual_seed(0)
    network, inputs = family()
    rows = summary(network, inputs)
    assert total(rows).activation_bytes * 4 == pytest.approx(kept_in_the_graph(network, inputs), abs=2 * len(rows) + 16)


def test_activations_of_a_plain_network_are_the_outputs_that_its_layers_take_in() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))
    rows = summary(network, (torch.randn(6, 3),))
    assert [r.cost.activation_bytes for r in rows] == [0, 8 * 4, 0, 5 * 4, 0]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda n: torch.optim.SGD(n.parameters(), lr=0.1), 0),
        (lambda n: torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9), 26 * 4),
        (lambda n: torch.optim.Adam(n.parameters()), 2 * 26 * 4 + 4 * 4),  # and its step, for each parameter
        (lambda n: torch.optim.Adam(n[2].parameters()), 2 * 10 * 4 + 2 * 4),
    ],
)
def test_the_state_of_an_optimiser_is_measured(make: Callable[[Any], torch.optim.Optimizer], expected: int) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    rows = summary(network, (torch.randn(6, 3),), make)
    assert total(rows).optimizer_bytes == expected
    assert all(parameter.grad is None for parameter in network.parameters())


def test_frozen_parameters_have_no_state() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    rows = summary(network, (torch.randn(6, 3),), lambda n: torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.5))
    assert [r.cost.optimizer_bytes for r in rows] == [0, 40]


# --- nothing is touched ---


class Drawing(nn.Module):
    """Draws from every generator, counts its calls in a buffer, and remembers its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(()))
        self.last: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last.append(x)
        return self.layer(x) * float(np.random.rand()) * random.random() * torch.rand(())  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", [True, False])
def test_the_network_and_the_random_state_stay_as_they_were(mode: bool) -> None:
    network = Drawing().train(mode)
    network.layer[2].train(not mode)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    grad, fast = torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()
    summary(network, (torch.randn(3, 4, generator=torch.Generator()),), lambda n: torch.optim.Adam(n.parameters()))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert not network.last and not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()) == (grad, fast)


def test_a_language_model_goes_on_in_its_text_after_it_was_looked_at() -> None:
    network, inputs = recurrent()
    network.eval()
    goes_on = torch.zeros(4, dtype=torch.bool)
    with torch.no_grad():
        network(*inputs)
        summary(network, inputs)
        after = network(TOKENS, goes_on)
        network.train().eval()(*inputs)
        assert torch.equal(after, network(TOKENS, goes_on))


def test_it_works_where_gradients_are_switched_off() -> None:
    network, inputs = mlp()
    with torch.no_grad():
        assert costs(network, *inputs).activation_bytes > 0


# --- what cannot be done ---


def test_inputs_that_do_not_fit_are_refused_and_nothing_stays_behind() -> None:
    with pytest.raises(TaskError, match=r"cannot be applied to inputs of shapes \[\(2, 5\)\].*two or more"):
        summary(nn.Linear(4, 2), (torch.randn(2, 5),))
    assert torch.backends.mha.get_fastpath_enabled()


def test_batch_norm_wants_two_examples() -> None:
    with pytest.raises(TaskError, match="two or more examples"):
        summary(nn.BatchNorm1d(4), (torch.randn(1, 4),))


def test_no_inputs_are_refused() -> None:
    with pytest.raises(TaskError, match="first axis"):
        summary(nn.Linear(4, 2), ())


def test_a_network_that_cannot_be_copied_is_refused_in_words() -> None:
    network = nn.Linear(4, 2)
    network.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TaskError, match="cannot be copied.*plain values"):
        summary(network, (torch.randn(2, 4),))
