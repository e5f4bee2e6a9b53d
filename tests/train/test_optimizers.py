from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.train import optimizers
from rheostat.train.optimizers import OPTIMIZERS, Group, all_reads, learning_rate, reads

SHAPES = [(3, 4), (5,), (2, 1, 3)]


def build(config: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """All parameters in one group."""
    return optimizers.build(config, [Group(tuple(parameters))])


FUSED = ["sgd", "momentum", "nesterov", "adagrad", "adam", "adamw"]
DECOUPLED = ["adamw", "lion"]
PLAIN: dict[str, Any] = {"foreach": False}
SINGLE: dict[str, Any] = {"foreach": False, "fused": False}

# PyTorch's optimisers with their documented arguments, one tensor at a time.
TORCH: dict[str, Callable[[list[Tensor], Mapping[str, float]], torch.optim.Optimizer]] = {
    "sgd": lambda p, h: torch.optim.SGD(
        p, lr=h["lr"], momentum=h.get("momentum", 0), weight_decay=h.get("weight_decay", 0), **SINGLE
    ),
    "momentum": lambda p, h: torch.optim.SGD(
        p, lr=h["lr"], momentum=h.get("momentum", 0.9), weight_decay=h.get("weight_decay", 0), **SINGLE
    ),
    "nesterov": lambda p, h: torch.optim.SGD(
        p,
        lr=h["lr"],
        momentum=h.get("momentum", 0.9),
        nesterov=True,
        weight_decay=h.get("weight_decay", 0),
        **SINGLE,
    ),
    "adagrad": lambda p, h: torch.optim.Adagrad(
        p,
        lr=h["lr"],
        initial_accumulator_value=h.get("accumulator", 0),
        eps=h.get("eps", 1e-10),
        weight_decay=h.get("weight_decay", 0),
        **SINGLE,
    ),
    "rmsprop": lambda p, h: torch.optim.RMSprop(
        p,
        lr=h["lr"],
        alpha=h.get("rho", 0.99),
        eps=h.get("eps", 1e-8),
        momentum=h.get("momentum", 0),
        weight_decay=h.get("weight_decay", 0),
        **PLAIN,
    ),
    "adadelta": lambda p, h: torch.optim.Adadelta(
        p,
        lr=h["lr"],
        rho=h.get("rho", 0.9),
        eps=h.get("eps", 1e-6),
        weight_decay=h.get("weight_decay", 0),
        **PLAIN,
    ),
    "adam": lambda p, h: torch.optim.Adam(p, weight_decay=h.get("weight_decay", 0), **adam_arguments(h), **SINGLE),
    "adamw": lambda p, h: torch.optim.AdamW(p, weight_decay=h.get("weight_decay", 0.01), **adam_arguments(h), **SINGLE),
    "nadam": lambda p, h: torch.optim.NAdam(p, weight_decay=h.get("weight_decay", 0), **adam_arguments(h), **PLAIN),
}


def adam_arguments(h: Mapping[str, float]) -> dict[str, Any]:
    return {"lr": h["lr"], "betas": (h.get("beta1", 0.9), h.get("beta2", 0.999)), "eps": h.get("eps", 1e-8)}


def lion(w: np.ndarray, gradients: list[np.ndarray], lrs: list[float], h: Mapping[str, float]) -> np.ndarray:
    """Chen et al. 2023, algorithm 2."""
    beta1, beta2, decay = h.get("beta1", 0.9), h.get("beta2", 0.99), h.get("weight_decay", 0.0)
    m = np.zeros_like(w)
    for g, lr in zip(gradients, lrs, strict=True):
        w = w - lr * (np.sign(beta1 * m + (1 - beta1) * g) + decay * w)
        m = beta2 * m + (1 - beta2) * g
    return w


def adam_tf1(w: np.ndarray, gradients: list[np.ndarray], lrs: list[float], h: Mapping[str, float]) -> np.ndarray:
    """The documentation of tf.train.AdamOptimizer."""
    beta1, beta2, eps = h.get("beta1", 0.9), h.get("beta2", 0.999), h.get("eps", 1e-8)
    m = v = np.zeros_like(w)
    for t, (g, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        g = g + h.get("weight_decay", 0.0) * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
    return w


def adagrad_tf1(w: np.ndarray, gradients: list[np.ndarray], lrs: list[float], h: Mapping[str, float]) -> np.ndarray:
    """The documentation of tf.train.AdagradOptimizer."""
    accumulator = np.full_like(w, h.get("accumulator", 0.1))
    for g, lr in zip(gradients, lrs, strict=True):
        g = g + h.get("weight_decay", 0.0) * w
        accumulator = accumulator + g**2
        w = w - lr * g / np.sqrt(accumulator)
    return w


NUMPY = {"lion": lion, "adam_tf1": adam_tf1, "adagrad_tf1": adagrad_tf1}

VALUES = {  # of each hyperparameter, unlike any default
    "lr": 0.02,
    "momentum": 0.7,
    "weight_decay": 0.05,
    "beta1": 0.8,
    "beta2": 0.95,
    "eps": 1e-3,
    "rho": 0.85,
    "accumulator": 0.3,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The fused kernels split even three numbers over all threads, which then wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Stream = list[list[Tensor]]  # gradients of each parameter, step by step


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in SHAPES]


@cache
def stream(steps: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Stream:
    """Gradients of very different sizes, so that the place of epsilon shows, and some exact zeros."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> Tensor:
        size = 10.0 ** -(9 * torch.rand(shape, generator=generator, dtype=torch.float64))
        kept = torch.rand(shape, generator=generator) > 0.1
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * size * kept).to(dtype)

    return [[one(shape) for shape in SHAPES] for _ in range(steps)]


def rates(lr: float, steps: int) -> list[float]:
    return [lr * (1 - step / (2 * steps)) for step in range(steps)]


def train(optimizer: torch.optim.Optimizer, gradients: Stream, lrs: list[float]) -> None:
    """As the trainer does: it sets the learning rate before each step."""
    for step, lr in zip(gradients, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
            for p, g in zip(group["params"], step, strict=True):
                p.grad = g.clone()
        optimizer.step()


def trained(config: Mapping[str, Any], gradients: Stream, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    params = parameters(dtype)
    train(build(config, params), gradients, rates(learning_rate(config), len(gradients)))
    return [p.detach() for p in params]


def reference(config: Mapping[str, Any], gradients: Stream, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    name, lrs, params = config["optimizer"], rates(config["lr"], len(gradients)), parameters(dtype)
    if name in TORCH:
        train(TORCH[name](params, config), gradients, lrs)
        return [p.detach() for p in params]
    return [
        torch.from_numpy(
            NUMPY[name](p.detach().double().numpy(), [g[i].double().numpy() for g in gradients], lrs, config)
        )
        for i, p in enumerate(params)
    ]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def test_every_optimizer_has_a_reference() -> None:
    assert set(TORCH) | set(NUMPY) == set(OPTIMIZERS)


@pytest.mark.parametrize("given", [{}, VALUES], ids=["defaults", "values"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_its_reference_over_200_steps(name: str, given: dict[str, float]) -> None:
    config = {"lr": OPTIMIZERS[name].defaults["lr"], **given, "optimizer": name}
    gradients = stream(200)
    theirs = reference(config, gradients)
    assert_close(trained(config, gradients), theirs, 1e-9)
    assert not torch.allclose(theirs[0], parameters()[0], atol=1e-3)  # it went somewhere


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_its_reference_in_single_precision(name: str) -> None:
    config = {**VALUES, "optimizer": name}
    gradients = stream(200, torch.float32)
    assert_close(trained(config, gradients, torch.float32), reference(config, gradients, torch.float32), 2e-5)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(np.log10(low), np.log10(high)).map(lambda exponent: float(10**exponent))


OTHERS = {
    "momentum": st.floats(0.01, 0.99),
    "weight_decay": st.just(0.0) | log_uniform(1e-6, 0.5),
    "beta1": st.floats(0, 0.99, allow_subnormal=False),
    "beta2": st.floats(0.5, 0.9999),
    "eps": log_uniform(1e-10, 1.0),
    "rho": st.floats(0.5, 0.999),
    "accumulator": st.floats(0.01, 1.0),
}


@given(
    name=st.sampled_from(list(OPTIMIZERS)),
    config=st.fixed_dictionaries({"lr": log_uniform(1e-6, 1.0)}, optional=OTHERS),
    seed=st.integers(0, 999),
)
def test_equals_its_reference_for_any_hyperparameters(name: str, config: dict[str, Any], seed: int) -> None:
    config["optimizer"] = name
    gradients = stream(12, seed=seed)
    assert_close(trained(config, gradients), reference(config, gradients), 1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_default_is_what_an_absent_value_and_none_mean(name: str) -> None:
    gradients = stream(5)
    absent = trained({"optimizer": name}, gradients)
    nones = dict.fromkeys(all_reads())
    for other in ({**nones, "optimizer": name}, {**OPTIMIZERS[name].defaults, "optimizer": name}):
        assert all(map(torch.equal, absent, trained(other, gradients)))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_fused_where_torch_can(name: str, dtype: torch.dtype) -> None:
    optimizer = build({"optimizer": name}, parameters(dtype))
    assert optimizer.param_groups[0]["fused"] is True
    train(optimizer, stream(2, dtype), [0.1, 0.1])


def test_is_not_fused_where_torch_cannot() -> None:
    complex_parameter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = build({"optimizer": "adam"}, [complex_parameter])
    complex_parameter.grad = torch.ones(2, dtype=torch.complex64)
    optimizer.step()
    assert optimizer.param_groups[0]["fused"] is None
    assert abs(complex_parameter[0].item() - 0.999) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_continues_bit_for_bit_from_its_state(name: str, dtype: torch.dtype) -> None:
    config = {**VALUES, "optimizer": name}
    gradients, lrs = stream(30, dtype), rates(0.02, 30)
    through = parameters(dtype)
    train(build(config, through), gradients, lrs)

    first = parameters(dtype)
    optimizer = build(config, first)
    train(optimizer, gradients[:13], lrs[:13])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    file.seek(0)
    continued = build(config, second)
    continued.load_state_dict(torch.load(file, weights_only=True))
    assert_same(continued.state_dict(), optimizer.state_dict())
    train(continued, gradients[13:], lrs[13:])
    assert all(map(torch.equal, second, through))


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict) and isinstance(b, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_coupled_or_decoupled(name: str) -> None:
    """Coupled: as if weight_decay · w were in the gradient. Decoupled: w shrinks by lr · weight_decay."""
    lr, decay = 0.02, 0.05
    config = {"optimizer": name, "lr": lr, "eps": 1e-3}
    gradients = stream(1)
    start = [p.detach() for p in parameters()]
    decayed = trained({**config, "weight_decay": decay}, gradients)
    plain = trained({**config, "weight_decay": 0.0}, gradients)
    with_penalty = [[g + decay * w for g, w in zip(gradients[0], start, strict=True)]]
    coupled = trained({**config, "weight_decay": 0.0}, with_penalty)
    decoupled = [p - lr * decay * w for p, w in zip(plain, start, strict=True)]
    assert_close(decayed, decoupled if name in DECOUPLED else coupled, 1e-12)
    if name not in ("sgd", "momentum"):  # where the first step is the same either way
        assert not torch.allclose(coupled[0], decoupled[0], rtol=0, atol=1e-5)


def test_nesterov_without_momentum_is_plain_sgd() -> None:
    gradients = stream(5)
    config = {"lr": 0.1, "momentum": 0.0}
    ours, plain = (trained({**config, "optimizer": name}, gradients) for name in ("nesterov", "sgd"))
    assert all(map(torch.equal, ours, plain))


def test_adam_of_tensorflow_1_adds_epsilon_before_the_correction() -> None:
    """One step, gradient as small as epsilon: lr · √.001 g / (√.001 g + eps), against lr · g / (g + eps)."""
    for name, expected in (("adam_tf1", 0.03162278 / 1.03162278), ("adam", 0.5)):
        w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = build({"optimizer": name, "lr": 1.0, "eps": 1e-8}, [w])
        w.grad = torch.full_like(w, 1e-8)
        optimizer.step()
        assert w.item() == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("name", NUMPY)
def test_parameters_without_a_gradient_stay(name: str) -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = build({"optimizer": name, "weight_decay": 0.1}, [first, second])
    optimizer.step()
    first.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(second, torch.ones(2))
    assert not torch.equal(first, torch.ones(2))
    assert second not in optimizer.state


@pytest.mark.parametrize("name", NUMPY)
def test_a_closure_is_called_with_gradients_on(name: str) -> None:
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = build({"optimizer": name, "lr": 0.1}, [w])

    def closure() -> float:
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert 0 < w.item() < 2


class Recorder(Mapping[str, Any]):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_, self.asked = values, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self.values_[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("everything was read")

    def __len__(self) -> int:
        return len(self.values_)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reads_what_it_says_and_all_of_it_matters(name: str) -> None:
    recorder = Recorder({"optimizer": name})
    build(recorder, parameters())
    assert recorder.asked == reads(name) | {"optimizer"}
    gradients = stream(3)
    usual = trained({"optimizer": name}, gradients)
    for key in reads(name):
        changed = trained({"optimizer": name, key: VALUES[key]}, gradients)
        assert not all(map(torch.equal, usual, changed)), key


def test_all_reads_are_the_reads_of_all() -> None:
    assert all_reads() == frozenset().union(*(reads(name) for name in OPTIMIZERS))


def test_the_learning_rate_is_the_one_given_or_the_default_of_the_optimizer() -> None:
    assert learning_rate({}) == 1e-3
    assert learning_rate({"optimizer": "adadelta"}) == 1.0
    assert learning_rate({"optimizer": "adadelta", "lr": 3}) == 3.0
    assert build({"lr": 0.5}, parameters()).param_groups[0]["lr"] == 0.5
    assert isinstance(build({}, parameters()), torch.optim.Adam)


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("sgd", "lr", -0.1, "greater than 0"),
        ("sgd", "lr", 0, "greater than 0"),
        ("adam", "lr", float("nan"), "finite"),
        ("adam", "lr", float("inf"), "finite"),
        ("adam", "lr", "0.1", "number"),
        ("adam", "lr", True, "number"),
        ("momentum", "momentum", 1.0, "less than 1"),
        ("rmsprop", "momentum", -0.1, "at least 0"),
        ("adam", "beta1", 1.0, "less than 1"),
        ("lion", "beta2", -0.5, "at least 0"),
        ("adam_tf1", "eps", 0.0, "greater than 0"),
        ("adadelta", "rho", 1.0, "less than 1"),
        ("adamw", "weight_decay", -1e-4, "at least 0"),
        ("adagrad", "accumulator", -1, "at least 0"),
        ("adagrad_tf1", "accumulator", 0, "greater than 0"),
    ],
)
def test_a_bad_value_says_what_is_allowed(name: str, key: str, value: object, words: str) -> None:
    with pytest.raises(TaskError) as caught:
        build({"optimizer": name, key: value}, parameters())
    message = str(caught.value)
    assert f"{key}={value!r}" in message
    assert words in message
    assert "\n" not in message
    default = OPTIMIZERS[name].defaults[key]
    assert f"default, {default:g}" in message


@pytest.mark.parametrize("name", ["adm", 3, ["adam"]])
def test_an_unknown_optimizer_is_named_with_the_known_ones(name: object) -> None:
    with pytest.raises(TaskError, match="adam_tf1") as caught:
        build({"optimizer": name}, parameters())
    assert repr(name) in str(caught.value)
    with pytest.raises(TaskError):
        learning_rate({"optimizer": name})


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(TaskError, match="no parameters"):
        build({}, nn.ReLU().parameters())


def test_hyperparameters_of_other_optimizers_are_ignored() -> None:
    optimizer = build({"optimizer": "sgd", "beta1": "nonsense", "rho": -1}, parameters())
    assert isinstance(optimizer, torch.optim.SGD)
