from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rheostat.data.base import Padded, TokenStream
from rheostat.errors import SettingError
from rheostat.models.language_model import RecurrentLanguageModel
from rheostat.models.seq2seq import Seq2Seq
from rheostat.models.text_classifier import TextClassifier
from rheostat.probe import findings, initialisation
from rheostat.probe.constant import Constant
from rheostat.probe.findings import LayerStart
from rheostat.probe.initialisation import init_probe
from rheostat.train.task import Task
from rheostat.types import Config

CONFIG = Config(optimizer="adam", lr=0.01, batch_size=16, dropout=0.3, weight_decay=0.1)


def blobs(examples: int = 200, classes: int = 4, shuffled: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(examples) % classes
    x = torch.randn(classes, 8, generator=generator)[y] * 2 + torch.randn(examples, 8, generator=generator)
    return x, y[torch.randperm(examples, generator=generator)] if shuffled else y


def net(activation: nn.Module | None = None, scale: float = 1.0, dropout: float = 0.0) -> nn.Module:
    model = nn.Sequential(
        nn.Linear(8, 32), activation or nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                module.weight.mul_(scale)
    return model


def make(model: Any, data: tuple[Tensor, ...] | None = None, **settings: Any) -> Task:
    data = data or blobs()
    return Task(model, data, data, device="cpu", **settings)


@pytest.fixture(scope="module")
def healthy() -> initialisation.InitProbe:
    return init_probe(make(lambda config: net(dropout=config.dropout)), CONFIG)


def test_a_healthy_network(healthy: initialisation.InitProbe) -> None:
    assert healthy.good and all(finding.good for finding in healthy.findings)
    assert healthy.constant == Constant(pytest.approx(math.log(4)), math.log(4), 4)
    assert healthy.loss == pytest.approx(math.log(4), abs=0.3) and 0 < healthy.error < 0.1
    assert healthy.with_inputs < 0.5 and healthy.without_inputs == pytest.approx(math.log(4), abs=0.1)
    assert len(healthy.overfits) == 1 and healthy.overfits[0].examples == 20 and healthy.overfits[0].lr == 0.01
    assert healthy.overfits[0].lowest <= 0.05 * math.log(4)
    assert "it should be ln 4 = 1.39 without knowledge: good" in healthy.words
    assert [layer.kind for layer in healthy.layers] == ["Linear"] * 3
    assert all(layer.output_rms > 0 and layer.gradient_rms > 0 for layer in healthy.layers)


def test_its_table_and_description(healthy: initialisation.InitProbe) -> None:
    assert len(healthy.table.rows) == 3 and healthy.table.rows[0][:3] == ("0", "Linear", "288")
    described = json.loads(json.dumps(healthy.describe(), allow_nan=False))
    assert described["good"] is True and described["layers"][2]["dead"] is None


def bad(found: tuple[findings.Finding, ...]) -> list[str]:
    return [finding.text for finding in found if not finding.good]


def test_weights_that_are_too_large() -> None:
    found = init_probe(make(lambda config: net(scale=20)), CONFIG)
    assert any("sure of what it cannot know" in text for text in bad(found.findings))


def test_labels_that_do_not_belong_to_their_inputs() -> None:
    """They can be learnt by heart, but not from the inputs in a hundred updates."""
    data = blobs(4000, shuffled=True)
    found = init_probe(make(lambda config: net(), data), CONFIG)
    assert not found.inputs_help
    assert [text for text in bad(found.findings) if "learns nothing from its inputs" in text]


def test_a_rate_that_is_too_low_is_told_from_a_network_that_cannot_learn() -> None:
    slow = init_probe(make(lambda config: net()), Config({**CONFIG, "lr": 2e-4}), overfit_steps=100)
    assert [overfit.learnt for overfit in slow.overfits] == [False, True]
    assert any("the learning rate is to blame" in text for text in bad(slow.findings))
    blind = init_probe(make(lambda config: Blind()), CONFIG, overfit_steps=50)
    assert [overfit.learnt for overfit in blind.overfits] == [False] * 3
    assert any("nor with lr=0.1 and 0.001" in text for text in bad(blind.findings))


class Blind(nn.Module):
    """Does not look at its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.ones(len(x), 1))


def dead(config: Config) -> nn.Module:
    model = net()
    nn.init.constant_(model[3].bias, -100.0)  # type: ignore[index,arg-type,union-attr]
    return model


def test_dead_and_saturated_units_are_found() -> None:
    found = init_probe(make(dead), CONFIG, steps=8, overfit_steps=1)
    assert any("zero for every example: 100% of 3" in text for text in bad(found.findings))
    found = init_probe(make(lambda config: net(nn.Tanh(), scale=30)), CONFIG, steps=8, overfit_steps=1)
    assert any("Saturated units" in text and "of 0" in text for text in bad(found.findings))


def layer(name: str, gradient: float, kind: str = "Linear") -> LayerStart:
    return LayerStart(name, kind, 10, 1.0, 0.0, math.nan, gradient)


def test_gradients_that_vanish_or_explode() -> None:
    [found] = findings.about_layers([layer("a", 1e-6), layer("b", 1.0)])
    assert not found.good and "vanishes on the way" in found.text
    [found] = findings.about_layers([layer("a", 100.0), layer("b", 1.0)])
    assert not found.good and "explodes on the way" in found.text
    [found] = findings.about_layers([layer("words", 1e-6, "Embedding"), layer("a", 1.0), layer("b", 1.0)])
    assert found.good


def test_the_loss_of_rare_classes_and_of_numbers() -> None:
    rare = findings.about_loss(2.3, Constant(0.5, 2.3, 10))
    assert rare.good and "0.5 with the label frequencies alone" in rare.text and "logarithms" in rare.text
    assert not findings.about_loss(0.1, Constant(0.5, 2.3, 10)).good
    assert not findings.about_loss(math.nan, None).good
    assert findings.about_loss(1.4, Constant(1.0)).good
    assert "Standardise the targets" in findings.about_loss(1e4, Constant(1.0)).text


def test_a_regression() -> None:
    x, _ = blobs()
    task = make(lambda config: nn.Sequential(net(), nn.Linear(4, 1)), (x, x[:, :1]), loss="mse", metrics=())
    found = init_probe(task, CONFIG)
    assert found.good and found.constant == Constant(pytest.approx(float(x[:, 0].var(correction=0)), rel=1e-5))


def test_texts_streams_and_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 20, (60, 7), generator=generator)
    tokens[::3, 4:] = 0
    texts = Padded((tokens, (tokens[:, 0] > 11).long()))
    config = Config(lr=0.02, batch_size=8)
    found = init_probe(
        Task(lambda c: TextClassifier(20, 2, embedding=8, hidden=8), texts, texts, device="cpu"), config, steps=60
    )
    assert found.overfits[0].examples == 20 and found.good
    stream = TokenStream(torch.arange(3000) % 9, length=16)
    found = init_probe(
        Task(
            lambda c: RecurrentLanguageModel(9, embedding=8, hidden=16),
            stream,
            stream,
            loss="tokens",
            metrics=(),
            device="cpu",
        ),
        config,
        steps=20,
    )
    assert found.good and found.constant is not None and found.constant.classes == 9
    pairs = Padded((tokens, tokens, tokens))
    found = init_probe(
        Task(
            lambda c: Seq2Seq(20, 20, embedding=16, hidden=16),
            pairs,
            pairs,
            loss="sentences",
            metrics=(),
            device="cpu",
        ),
        config,
        steps=20,
        overfit_steps=200,
    )
    assert found.overfits[0].learnt


def test_nothing_of_it_is_seen_outside_and_the_same_seed_gives_the_same() -> None:
    shared = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4)).eval()
    before = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    state = torch.get_rng_state()
    found = [init_probe(make(lambda config: shared), CONFIG, steps=8, overfit_steps=5) for _ in range(2)]
    assert found[0].describe() == found[1].describe()
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())
    assert all(parameter.grad is None for parameter in shared.parameters()) and not shared.training
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(shared[3], nn.Dropout) and shared[3].p == 0.2


def test_a_diverging_rate_and_wrong_arguments() -> None:
    x = torch.randn(100, 3) * 1e3
    task = make(lambda config: nn.Linear(3, 1), (x, x[:, :1]), loss="mse", metrics=())
    found = init_probe(task, {"optimizer": "sgd", "lr": 1e3})
    assert any("leaves the finite numbers" in text for text in bad(found.findings))
    json.dumps(found.describe(), allow_nan=False)
    with pytest.raises(SettingError, match="steps=3"):
        init_probe(task, {}, steps=3)
