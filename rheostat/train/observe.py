"""A hook that watches the layers of a network while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rheostat.errors import SettingError, unknown
from rheostat.train.gates import Openness
from rheostat.train.hooks import Hook, Run, check_whole
from rheostat.train.inside import own_parameters
from rheostat.train.spectrum import Spectrum, spectrum
from rheostat.train.units import Activity, activity

MEASURES = ("gradient_norm", "update_ratio", "output_rms", "dead", "saturated", "stable_rank", "effective_rank")


@dataclass(frozen=True)
class LayerState:
    """A layer that has parameters, at one moment; NaN or empty where there is no such thing.

    `gradient_norm` is that of all its parameters together for the batch of the update, before anything clips it.
    `update_ratio` is ||change|| / ||parameters|| in this update. `spectra` are those of its matrices.
    """

    gradient_norm: float = math.nan
    update_ratio: float = math.nan
    activity: Activity = field(default_factory=Activity)
    spectra: Mapping[str, Spectrum] = field(default_factory=dict)

    def measured(self, measure: str) -> float:
        """One of `MEASURES`. Ranks are those of its last matrix, which for a recurrent layer is that of the state."""
        if measure in ("gradient_norm", "update_ratio"):
            return float(getattr(self, measure))
        if measure in ("output_rms", "dead", "saturated"):
            return float(getattr(self.activity, measure))
        if measure not in MEASURES:
            raise SettingError(unknown("measure", measure, MEASURES))
        return float(getattr(list(self.spectra.values())[-1], measure)) if self.spectra else math.nan


@dataclass(frozen=True)
class Moment:
    """A network after so many updates: its layers by name, in the order in which they run."""

    step: int
    epoch: float
    layers: Mapping[str, LayerState]


@dataclass(frozen=True)
class NetworkHistory:
    """What the layers of a network did in training; the first moment is before the first update."""

    moments: tuple[Moment, ...] = ()

    @property
    def layers(self) -> list[str]:
        return list(self.moments[0].layers) if self.moments else []

    def curve(self, layer: str, measure: str) -> list[float]:
        """One of `MEASURES` of a layer, at each moment. Raises SettingError for another name."""
        return [moment.layers[layer].measured(measure) for moment in self.moments]


@torch.no_grad()
def moment(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    step: int = 0,
    epoch: float = 0.0,
    gradients: Mapping[nn.Parameter, Tensor] = MappingProxyType({}),
    before: Mapping[nn.Parameter, Tensor] = MappingProxyType({}),
) -> Moment:
    """A network as it is, on a batch of inputs; with the norms of `gradients`, and parameters `before` the update.

    Raises TaskError where it cannot be copied, or applied to these inputs.
    """
    owners = own_parameters(network)
    layers = {}
    for name, seen in activity(network, inputs).items():
        own = owners[name]
        change = _norm([p - before[p] for p in own.values() if p in before])
        size = _norm([before[p] for p in own.values() if p in before])
        layers[name] = LayerState(
            _norm([gradients[p] for p in own.values() if p in gradients]),
            change / size if size else math.nan,
            seen,
            {part: spectrum(p) for part, p in own.items() if p.dim() > 1},
        )
    return Moment(step, epoch, layers)


class Observer(Hook):
    """Watches the layers of a network: before the first update, and at the last one of every epoch.

    `probe` are inputs (B, ...) that the network is applied to for it, in evaluation mode and as a copy. With
    `every_n_steps`, it watches at every n-th update instead. Training is the same with it and without it, bit for
    bit. A moment costs a pass through the network and the singular values of its matrices; other updates cost nothing.

    Raises SettingError where there is no probe.
    """

    def __init__(self, probe: tuple[Tensor, ...], every_n_steps: int | None = None) -> None:
        if not probe or not all(isinstance(part, Tensor) and part.dim() for part in probe):
            raise SettingError("Observer(probe): give a tuple of tensors (B, ...), the inputs of the network.")
        if every_n_steps is not None:
            check_whole("every_n_steps", every_n_steps, 1)
        self.probe, self.every_n_steps = probe, every_n_steps
        self._moments: list[Moment] = []
        self._parameters: list[nn.Parameter] = []
        self._watching: list[RemovableHandle] = []  # while the coming update is to be looked at
        self._gradients: dict[nn.Parameter, Tensor] = {}  # their norms, which every part of a batch replaces
        self._old: dict[nn.Parameter, Tensor] = {}

    @property
    def history(self) -> NetworkHistory:
        return NetworkHistory(tuple(self._moments))

    def begin(self, run: Run) -> None:
        self._parameters = list(run.model.parameters())
        device = next((p.device for p in self._parameters), torch.device("cpu"))
        self.probe = tuple(part.to(device) for part in self.probe)
        if run.step == 0 and not self._moments:
            self._look(run)
        self._make_ready(run)

    def _make_ready(self, run: Run) -> None:
        every = self.every_n_steps or run.steps_per_epoch
        if (run.step + 1) % every == 0 and not self._watching:
            self._watching = [  # it is measured as it arrives: by `before_step` another hook may have clipped it
                p.register_post_accumulate_grad_hook(self._arrived) for p in self._parameters if p.requires_grad
            ]

    def _arrived(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter) and parameter.grad is not None
        gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        self._gradients[parameter] = torch.linalg.vector_norm(gradient.detach())

    def before_step(self, run: Run) -> None:
        if self._watching:
            self._stop_watching()
            self._old = {p: p.detach().clone() for p in self._parameters}

    def after_step(self, run: Run) -> None:
        if self._old:
            self._look(run)
            self._gradients, self._old = {}, {}
        self._make_ready(run)

    def end(self, run: Run) -> None:
        self._stop_watching()

    def _stop_watching(self) -> None:
        for handle in self._watching:
            handle.remove()
        self._watching = []

    def _look(self, run: Run) -> None:
        epoch = run.step / max(run.steps_per_epoch, 1)
        self._moments.append(moment(run.model, self.probe, run.step, epoch, self._gradients, self._old))

    def state_dict(self) -> dict[str, Any]:
        return {"moments": [asdict(moment) for moment in self._moments]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moments = [
            Moment(m["step"], m["epoch"], {name: _layer_state(layer) for name, layer in m["layers"].items()})
            for m in state["moments"]
        ]


def _norm(parts: list[Tensor]) -> float:
    """The Euclidean norm of all of them together; NaN where there is nothing."""
    if not parts:
        return math.nan
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part.float()) for part in parts])))


def _layer_state(state: dict[str, Any]) -> LayerState:
    seen = state["activity"]
    opened = {name: Openness(**values) for name, values in seen["gates"].items()}
    spectra = {
        name: Spectrum(tuple(s["largest"]), s["stable_rank"], s["effective_rank"])
        for name, s in state["spectra"].items()
    }
    return LayerState(
        state["gradient_norm"],
        state["update_ratio"],
        Activity(seen["output_rms"], seen["dead"], seen["saturated"], opened),
        spectra,
    )
