"""The peers by name. Their packages are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from benchmarks.search.peers.base import Asked, Setting
from rheostat.errors import SettingError, unknown

PEERS: Mapping[str, str] = {  # name -> module in this folder
    "random": "random",
    "optuna-tpe": "optuna",
    "optuna-tpe-hyperband": "optuna",
    "optuna-tpe-asha": "optuna",
    "optuna-gp": "optuna",
    "smac-hyperband": "smac",
    "dehb": "dehb",
    "syne-tune-asha": "syne_tune",
    "syne-tune-cqr": "syne_tune",
    "syne-tune-bore": "syne_tune",
    "neps": "neps",
    "neps-priorband": "neps",
    "hpbandster-bohb": "hpbandster",
}


def make_peer(name: str, setting: Setting) -> Asked:
    """A peer by name. Raises SettingError for one that is not known, or whose package is not installed."""
    if name not in PEERS:
        raise SettingError(unknown("peer", name, PEERS))
    try:
        module = import_module(f"benchmarks.search.peers.{PEERS[name]}")
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{name} needs the package {error.name!r}, which is not installed: pip install 'rheostat[peers]'."
        ) from error
    return Asked(module.make(name, setting), setting.space)
