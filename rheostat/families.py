"""The families of networks: which data each is for, how one is built, and what of it is tuned by default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rheostat.data.base import Dataset, Form, Kind
from rheostat.errors import SettingError, unknown
from rheostat.hyperparameters import default_space
from rheostat.models import cnn, language_model, mlp, seq2seq, text_classifier
from rheostat.space import Choice, Float, Hyperparameter, Int, Prior, Space
from rheostat.train.task import Metric, Score, Task
from rheostat.train.translation import Bleu
from rheostat.types import Config, Scalar


@dataclass(frozen=True)
class Build:
    """Makes a network of a class from a configuration: `given` is what the data say, the rest is read by name."""

    network: type[nn.Module]
    given: Mapping[str, Any]

    def __call__(self, config: Config) -> nn.Module:
        tunable = [name for name in inspect.signature(self.network).parameters if name not in self.given]
        return self.network(**self.given, **{name: config[name] for name in tunable if name in config})


@dataclass(frozen=True)
class ScaledRMSE:
    """Root mean squared error in the units of the user's target, which was standardised by `scale`."""

    scale: float

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean().sqrt() * self.scale


@dataclass(frozen=True)
class Family:
    """One kind of network.

    `given` are the arguments of the network that follow from the data. `space` makes the default space.
    `trials` and `epochs` are the budget when the user names none: enough to end with a good network on data of a
    usual size, not to exhaust the space. `trials` assumes ASHA, under which most of them train one epoch.
    """

    name: str
    title: str
    forms: tuple[Form, ...]
    network: type[nn.Module]
    given: Callable[[Dataset], Mapping[str, Any]]
    space: Callable[[Dataset], Space]
    trials: int
    epochs: int


def _given_rows(dataset: Dataset) -> Mapping[str, Any]:
    return {"inputs": dataset.inputs, "outputs": dataset.outputs}


def _given_images(dataset: Dataset) -> Mapping[str, Any]:
    assert isinstance(dataset.train, tuple)
    shape = tuple(dataset.train[0].shape[1:])
    return {"shape": shape, "outputs": dataset.outputs, "means": dataset.means, "scales": dataset.scales}


def _given_texts(dataset: Dataset) -> Mapping[str, Any]:
    given: dict[str, Any] = {"vocabulary": len(dataset.vocabularies[0]), "outputs": dataset.outputs}
    if dataset.vectors is not None:
        given |= {"vectors": dataset.vectors, "embedding": dataset.vectors.shape[1]}
    return given


def _given_stream(dataset: Dataset) -> Mapping[str, Any]:
    return {"vocabulary": len(dataset.vocabularies[0])}


def _given_pairs(dataset: Dataset) -> Mapping[str, Any]:
    source, target = dataset.vocabularies
    return {"source_vocabulary": len(source), "target_vocabulary": len(target)}


def _size(dataset: Dataset) -> int:
    return len(dataset.train) if not isinstance(dataset.train, tuple) else len(dataset.train[0])


def _mlp_space(dataset: Dataset) -> Space:
    return default_space(mlp.HYPERPARAMETERS, _size(dataset))


def _cnn_space(dataset: Dataset) -> Space:
    return default_space(
        ["layers", "channels", "dropout"],
        _size(dataset),
        "cnn",
        {
            "lr": Float(5e-4, 2e-2, log=True, prior=Prior(3e-3, 0.5)),
            "batch_size": Choice([64, 128], prior=Prior(128, 0.6)),
            "schedule": "cosine",
            "layers": Int(4, 8, prior=Prior(6, 0.5)),
            "channels": Int(12, 32, log=True, prior=Prior(16, 0.5)),
            "dropout": Float(0.0, 0.4, prior=Prior(0.05, 0.4)),
        },
    )


def _text_space(dataset: Dataset) -> Space:
    parts: dict[str, Hyperparameter | Scalar] = {
        "batch_size": Choice([32, 64, 128]),
        "schedule": "cosine",
        "clip_norm": 1.0,
        "hidden": Int(64, 256, log=True, prior=Prior(128, 0.5)),
        "cell": Choice(["gru", "lstm"], prior=Prior("gru", 0.5)),
        "recurrent_layers": Int(1, 2, prior=Prior(1, 0.6)),
        "embedding": Int(50, 300, log=True, prior=Prior(128, 0.4)),
        "dropout": Float(0.0, 0.7, prior=Prior(0.5, 0.4)),
        "lr": Float(5e-4, 1e-2, log=True, prior=Prior(2e-3, 0.5)),
    }
    if dataset.vectors is not None:
        del parts["embedding"]
    return default_space(["cell", "hidden", "recurrent_layers", "dropout"], _size(dataset), "rnn", parts)


def _language_model_space(dataset: Dataset) -> Space:
    characters = len(dataset.vocabularies[0]) < 1000
    return default_space(
        ["hidden", "recurrent_layers", "dropout"],
        None,
        "rnn",
        {
            # Many short steps: halving either gained 0.07 to 0.09 nats on a text of a million characters.
            "batch_size": Choice([16, 32, 64], prior=Prior(32, 0.5)),
            "sequence_length": 64 if characters else 35,
            "schedule": "cosine",
            "clip_norm": 1.0,
            "cell": Choice(["gru", "lstm"], prior=Prior("lstm", 0.5)),
            "embedding": 64 if characters else 256,
            "hidden": Int(128, 512, log=True, prior=Prior(384, 0.5)),
            "recurrent_layers": Int(1, 2, prior=Prior(1, 0.7)),
            "lr": Float(5e-4, 2e-2, log=True, prior=Prior(4e-3, 0.5)),
        },
    )


def _transformer_space(dataset: Dataset) -> Space:
    return default_space(
        ["dropout"],
        None,
        "transformer",
        {
            "batch_size": 32,
            "schedule": "cosine",
            "warmup": 0.05,
            "clip_norm": 1.0,
            "hidden": Choice([64, 128, 256], prior=Prior(128, 0.5)),
            "layers": Int(2, 6, prior=Prior(4, 0.5)),
            "heads": 4,
            "lr": Float(3e-4, 1e-2, log=True, prior=Prior(2e-3, 0.5)),
        },
    )


def _seq2seq_space(dataset: Dataset) -> Space:
    cell = Choice(["gru", "lstm"], prior=Prior("gru", 0.7))  # vanilla decoders fail (Britz et al. 2017, table 3)
    return default_space(
        ["dropout", "hidden"],
        None,
        "seq2seq",
        {
            "batch_size": 64,
            "schedule": "cosine",
            "clip_norm": 1.0,
            "encoder_cell": cell,
            "decoder_cell": cell,
            "embedding": 256,
            "hidden": Int(128, 512, log=True, prior=Prior(256, 0.5)),
            "attention": "multiplicative",
            "label_smoothing": 0.1,
            "tied": True,
            "dropout": Float(0.0, 0.6, prior=Prior(0.4, 0.5)),
            "lr": Float(5e-4, 1e-2, log=True, prior=Prior(3e-3, 0.5)),
        },
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        "mlp",
        "a multilayer perceptron",
        (Form.ROWS,),
        mlp.MLP,
        _given_rows,
        _mlp_space,
        trials=60,
        epochs=20,
    ),
    Family(
        "cnn",
        "a convolutional network",
        (Form.IMAGES,),
        cnn.CNN,
        _given_images,
        _cnn_space,
        trials=16,
        epochs=9,
    ),
    Family(
        "rnn",
        "a recurrent network over words",
        (Form.TEXTS,),
        text_classifier.TextClassifier,
        _given_texts,
        _text_space,
        trials=24,
        epochs=9,
    ),
    Family(
        "lm",
        "a recurrent language model",
        (Form.STREAM,),
        language_model.RecurrentLanguageModel,
        _given_stream,
        _language_model_space,
        trials=9,
        epochs=9,
    ),
    Family(
        "transformer",
        "a decoder-only transformer",
        (Form.STREAM,),
        language_model.Transformer,
        _given_stream,
        _transformer_space,
        trials=9,
        epochs=9,
    ),
    Family(
        "seq2seq",
        "an encoder and a decoder with attention",
        (Form.PAIRS,),
        seq2seq.Seq2Seq,
        _given_pairs,
        _seq2seq_space,
        trials=9,
        epochs=6,
    ),
)  # the first that takes a form is its default


def choose(dataset: Dataset, name: str | None = None) -> Family:
    """The family of this name; without a name, the first one for data of this form. Raises SettingError."""
    fitting = [family for family in FAMILIES if dataset.form in family.forms]
    if name is None:
        return fitting[0]
    for family in fitting:
        if family.name == name:
            return family
    raise SettingError(unknown(f"model for {dataset.form} such as {dataset.name}", name, [f.name for f in fitting]))


def form_of(name: str) -> Form | None:
    """The form of data that a family is for; None where it suits more than one. Raises SettingError."""
    for family in FAMILIES:
        if family.name == name:
            return family.forms[0] if len(family.forms) == 1 and family.forms[0] is not Form.ROWS else None
    raise SettingError(unknown("model", name, [family.name for family in FAMILIES]))


def make_task(dataset: Dataset, family: Family, device: str = "auto") -> Task:
    """The task of training networks of a family on a data set."""
    loss, metric = "cross_entropy", ""
    metrics: tuple[str, ...] | Mapping[str, Metric] = ("error", "accuracy")
    scores: Mapping[str, Score] = {}
    if dataset.kind is Kind.REGRESSION:
        loss, metrics = "mse", {"rmse": ScaledRMSE(dataset.target_scale)}
    if dataset.form is Form.STREAM:
        loss, metrics = "tokens", ()
    if dataset.form is Form.PAIRS:
        loss, metrics, metric = "sentences", (), "val_bleu"
        scores = {"bleu": Bleu(dataset.vocabularies[1])}
    return Task(
        Build(family.network, family.given(dataset)),
        dataset.train,
        dataset.validation,
        loss=loss,
        metrics=metrics,
        metric=metric,
        scores=scores,
        test=dataset.test,
        name=dataset.name,
        device=device,
    )
