"""Recurrent layers in lanes against torch's own kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from rheostat.train import lanes as lanes_module
from rheostat.train.dropout import Masks, draw_masks, rates
from rheostat.train.lanes import Lanes, LanesError
from rheostat.train.loop import Training
from rheostat.train.recurrent import install
from rheostat.types import Config, Job
from tests.train.test_lanes import _one_thread, a_task, check_equal, jobs, tokens  # noqa: F401 - a fixture

LANES, T, B, IN, H = 3, 5, 4, 3, 6
Case = dict[str, Any]
LAYERS: dict[str, tuple[type[nn.RNNBase], Case]] = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 2}),
}
CELLS: dict[str, Callable[[bool], nn.RNNCellBase]] = {
    "tanh": lambda bias: nn.RNNCell(IN, H, bias),
    "relu": lambda bias: nn.RNNCell(IN, H, bias, "relu"),
    "gru": lambda bias: nn.GRUCell(IN, H, bias),
    "lstm": lambda bias: nn.LSTMCell(IN, H, bias),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for part in outputs for tensor in flat(part)]


def weighed(outputs: Any) -> Tensor:
    """A loss in which every element of every output counts, each for something else."""
    parts = [part.sin() * torch.arange(1, part.numel() + 1, dtype=part.dtype).view_as(part) for part in flat(outputs)]
    return torch.stack([part.sum() / part.numel() for part in parts]).sum()


def lanes_of(models: list[Any]) -> tuple[nn.Module, Masks, list[torch.Generator], dict[str, Tensor]]:
    network, masks = copy.deepcopy(models[0]), Masks()
    generators = [torch.Generator().manual_seed(k) for k in range(len(models))]
    install(network, masks)
    network.train(models[0].training)  # as a program does
    assert dict(network.named_parameters()).keys() == dict(models[0].named_parameters()).keys()
    named = [dict(model.named_parameters()) for model in models]
    return network, masks, generators, {n: torch.stack([each[n].detach() for each in named]) for n in named[0]}


def noted_and_drawn(
    network: nn.Module, masks: Masks, models: list[Any], generators: list[torch.Generator], arguments: tuple[Any, ...]
) -> list[Tensor]:
    """The masks (K, ...) of a call, noted in a call with the arguments of the first lane."""
    by_lane = [rates(model) for model in models]
    masks.active = frozenset(layer for layer in by_lane[0] if any(lane[layer] for lane in by_lane))
    with torch.no_grad():
        network(*arguments)
    return [draw_masks(draw, [lane[draw.layer] for lane in by_lane], generators) for draw in masks.draws]


def check(models: list[Any], arguments: tuple[Any, ...]) -> None:
    """Outputs and the gradients of weights and arguments, (K, ...) each, of lanes and of torch's own modules."""
    template, masks, generators, stacked = lanes_of(models)
    drawn = noted_and_drawn(template, masks, models, generators, tree_map(lambda tensor: tensor[0], arguments))
    stacked = {name: weight.requires_grad_() for name, weight in stacked.items()}
    arguments = tree_map(lambda tensor: tensor.clone().requires_grad_(), arguments)

    def run(weights: Any, drawn: list[Tensor], *arguments: Any) -> tuple[Tensor, Any]:
        masks.given = iter(drawn)
        outputs = functional_call(template, (weights,), arguments)
        return weighed(outputs), outputs

    losses, outputs = torch.vmap(run)(stacked, drawn, *arguments)
    gradients = torch.autograd.grad(losses.sum(), [*stacked.values(), *flat(arguments)])
    for lane, model in enumerate(models):
        own = tree_map(lambda tensor: tensor[lane].detach().requires_grad_(), arguments)  # noqa: B023
        with torch.random.fork_rng():
            torch.manual_seed(lane)
            right = model(*own)
            assert torch.equal(torch.get_rng_state(), generators[lane].get_state())
        expected = torch.autograd.grad(weighed(right), [*model.parameters(), *flat(own)])
        pairs = [*zip(flat(outputs), flat(right), strict=True), *zip(gradients, expected, strict=True)]
        for value, wanted in pairs:
            tolerance = 1e-10 if wanted.dtype == torch.float64 else 2e-6 * (1 + float(wanted.detach().abs().max()))
            torch.testing.assert_close(value[lane], wanted, rtol=0, atol=tolerance)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def state_for(kind: type[nn.Module], options: Case, batch: tuple[int, ...], directions: int) -> Any:
    h = random(LANES, directions, *batch, options.get("proj_size", H))
    return (h, random(LANES, directions, *batch, H)) if kind is nn.LSTM else h


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_compute_what_torch_does(name: str, layers: int) -> None:
    kind, more = LAYERS[name]
    for bidirectional, bias, batch_first, batched, state in product((False, True), repeat=5):
        options = {**more, "bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
        models = [kind(IN, H, layers, **options).double() for _ in range(LANES)]
        x = random(LANES, *((B, T) if batch_first else (T, B)), IN) if batched else random(LANES, T, IN)
        hx = state_for(kind, more, (B,) if batched else (), layers * (1 + bidirectional))
        check(models, (x, hx) if state else (x,))


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch says that it takes the slower kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # torch has another kernel for LSTM in float32
@pytest.mark.parametrize("name", list(LAYERS))
def test_dropout_between_layers_draws_what_torch_draws(name: str, dtype: torch.dtype) -> None:
    kind, more = LAYERS[name]
    for bidirectional, batch_first, batched in product((False, True), repeat=3):
        options = {**more, "bidirectional": bidirectional, "batch_first": batch_first}
        models = [kind(IN, H, 3, dropout=rate, **options).to(dtype) for rate in (0.0, 0.3, 0.6, 1.0)]
        x = random(4, T, 7, IN, dtype=dtype) if batched else random(4, T, IN, dtype=dtype)
        check(models, (x,))
        check([model.eval() for model in models], (x,))


@pytest.mark.parametrize("name", list(CELLS))
def test_cells_compute_what_torch_does(name: str) -> None:
    for bias, batched, state in product((False, True), repeat=3):
        batch = (B,) if batched else ()
        x, h = random(LANES, *batch, IN), random(LANES, *batch, H)
        arguments = (x, (h, random(LANES, *batch, H) * 2) if name == "lstm" else h) if state else (x,)
        check([CELLS[name](bias).double() for _ in range(LANES)], arguments)


@pytest.mark.parametrize("name", list(LAYERS))
def test_a_step_can_be_traced(name: str) -> None:
    kind, more = LAYERS[name]
    template, _, _, stacked = lanes_of([kind(IN, H, 2, bidirectional=True, **more).double() for _ in range(LANES)])

    def loss(weights: Any, x: Tensor) -> Tensor:
        return weighed(functional_call(template, (weights,), (x,)))

    step, x = torch.vmap(grad_and_value(loss)), random(LANES, T, B, IN)
    traced = make_fx(step)(stacked, x)(stacked, x + 1)
    torch.testing.assert_close(traced, step(stacked, x + 1), rtol=0, atol=1e-12)


def test_the_users_code_finds_what_it_knows() -> None:
    model = nn.Sequential(nn.LSTM(IN, H, 2, batch_first=True), nn.GRUCell(IN, H))
    model.append(model[0])
    template, _, _, _ = lanes_of([model])
    lstm = template[0]  # type: ignore[index]
    assert isinstance(lstm, nn.LSTM) and lstm is template[2]  # type: ignore[index]
    assert (lstm.hidden_size, lstm.num_layers, lstm.batch_first) == (H, 2, True)
    assert [len(weights) for weights in lstm.all_weights] == [4, 4]
    lstm.flatten_parameters()
    assert type(model[0]) is nn.LSTM and type(model[1]) is nn.GRUCell


@pytest.mark.parametrize("given", ["state", "input"])
def test_wrong_shapes_raise_instead_of_being_broadcast(given: str) -> None:
    for kind in (nn.GRU, nn.GRUCell):
        template, _, _, stacked = lanes_of([kind(IN, H).double()] * LANES)
        batch = (LANES, T, 1) if kind is nn.GRU else (LANES, 1)
        x = random(*batch, IN + (given == "input"))
        h = random(LANES, *((1,) if kind is nn.GRU else ()), B if given == "state" else 1, H)
        with pytest.raises(RuntimeError):
            torch.vmap(lambda w, x, h: functional_call(template, (w,), (x, h)))(stacked, x, h)  # noqa: B023


# -- in lanes ------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Embedding -> recurrent layers -> last output."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.body = kind(5, 6, **options)
        self.head = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if isinstance(self.body, nn.RNNBase):
            self.body.flatten_parameters()
            return self.head(self.body(x.transpose(0, 1))[0][-1])
        state: Any = None
        for step in x.unbind(1):
            state = self.body(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Dropped(nn.Module):
    """Dropout of what lies in memory in another order than it is seen: (T, B, H) seen as (B, T, H)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(11, 5), nn.GRU(5, 6, batch_first=True)
        self.dropout, self.head = nn.Dropout(0.4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(self.embed(x))[0]).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: Classifier(nn.RNN),
    "gru": lambda: Classifier(nn.GRU),
    "lstm": lambda: Classifier(nn.LSTM),
    "two layers with dropout": lambda: Classifier(nn.LSTM, num_layers=2, dropout=0.3, bidirectional=True),
    "dropout of all outputs": Dropped,
    "rnn cell": lambda: Classifier(nn.RNNCell),
    "lstm cell": lambda: Classifier(nn.LSTMCell),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_200_steps_in_float64(name: str) -> None:
    group = [Job(j.trial, j.config, j.seed, 34, 34) for j in jobs(3, optimizer="adam")]
    check_equal(a_task(lambda config: NETWORKS[name]().double(), tokens), group, 34)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_one_step_in_float32(name: str) -> None:
    task = a_task(lambda config: NETWORKS[name](), tokens)
    trainings = [Training(task, each) for each in jobs(20)]
    together = Lanes(trainings)
    for training, generator in zip(trainings, together.generators, strict=True):
        generator.set_state(training.random_state["torch"])
    batch = next(together._batches())
    losses, gradients = together.backward(batch)
    for lane, training in enumerate(trainings):
        plain = lanes_module._plain_step(training, tuple(part[lane] for part in batch), together.program.trained, [])
        own = [losses[lane], *(None if g is None else g[lane] for g in gradients)]
        assert lanes_module._difference(own, plain) < 5e-6


class Packed(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(1, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), 7)
        packed = nn.utils.rnn.pack_padded_sequence(x[..., None].float(), lengths, batch_first=True)
        return self.head(self.body(packed)[1][-1])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch warns of its own packing
def test_packed_sequences_are_refused_by_name() -> None:
    with pytest.raises(LanesError, match="packed sequences"):
        Lanes([Training(a_task(Packed, tokens), each) for each in jobs(2)]).spot_check()
