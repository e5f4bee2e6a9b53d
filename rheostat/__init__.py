"""Rheostat finds the hyperparameters with which a deep network trains best, and says why."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheostat.comparing import compare as compare
    from rheostat.confirming import confirm as confirm
    from rheostat.data.base import Padded as Padded
    from rheostat.data.base import TokenStream as TokenStream
    from rheostat.errors import Infeasible as Infeasible
    from rheostat.errors import RheostatError as RheostatError
    from rheostat.growing import grow as grow
    from rheostat.hyperparameters import explain as explain
    from rheostat.models.cnn import CNN as CNN
    from rheostat.models.language_model import RecurrentLanguageModel as RecurrentLanguageModel
    from rheostat.models.language_model import Transformer as Transformer
    from rheostat.models.mlp import MLP as MLP
    from rheostat.models.seq2seq import Seq2Seq as Seq2Seq
    from rheostat.models.text_classifier import TextClassifier as TextClassifier
    from rheostat.observing import observe as observe
    from rheostat.schedule.asha import ASHA as ASHA
    from rheostat.schedule.fifo import FIFO as FIFO
    from rheostat.schedule.hyperband import Hyperband as Hyperband
    from rheostat.schedule.median import Median as Median
    from rheostat.search.grid import Grid as Grid
    from rheostat.search.random import Random as Random
    from rheostat.search.sobol import Sobol as Sobol
    from rheostat.space import Choice as Choice
    from rheostat.space import Float as Float
    from rheostat.space import Int as Int
    from rheostat.space import Prior as Prior
    from rheostat.space import Space as Space
    from rheostat.study import Study as Study
    from rheostat.train.batches import TensorBatches as TensorBatches
    from rheostat.train.early_stopping import EarlyStopping as EarlyStopping
    from rheostat.train.finetuning import FineTuned as FineTuned
    from rheostat.train.finetuning import fine_tuning_space as fine_tuning_space
    from rheostat.train.objective import Trial as Trial
    from rheostat.train.optimizers import Group as Group
    from rheostat.train.task import Task as Task
    from rheostat.tuning import tune as tune
    from rheostat.types import Config as Config

# Where each public name lives; it is imported when it is first used, so that `import rheostat` stays quick.
_HOMES = {
    "comparing": ("compare",),
    "confirming": ("confirm",),
    "data.base": ("Padded", "TokenStream"),
    "errors": ("Infeasible", "RheostatError"),
    "growing": ("grow",),
    "hyperparameters": ("explain",),
    "models.cnn": ("CNN",),
    "models.language_model": ("RecurrentLanguageModel", "Transformer"),
    "models.mlp": ("MLP",),
    "models.seq2seq": ("Seq2Seq",),
    "models.text_classifier": ("TextClassifier",),
    "observing": ("observe",),
    "schedule.asha": ("ASHA",),
    "schedule.fifo": ("FIFO",),
    "schedule.hyperband": ("Hyperband",),
    "schedule.median": ("Median",),
    "search.grid": ("Grid",),
    "search.random": ("Random",),
    "search.sobol": ("Sobol",),
    "space": ("Choice", "Float", "Int", "Prior", "Space"),
    "study": ("Study",),
    "train.batches": ("TensorBatches",),
    "train.finetuning": ("FineTuned", "fine_tuning_space"),
    "train.hooks": ("ClipGradients", "Hook", "Run", "StopAtStep", "StopOnNaN", "WeightAverage"),
    "train.objective": ("Trial",),
    "train.optimizers": ("Group",),
    "train.task": ("Task",),
    "tuning": ("tune",),
    "types": ("Config", "Status"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "load"])


def load(name: str, storage: str | None = None) -> Study:
    """An existing study, by name. Raises StudyError, naming the studies there are."""
    from rheostat.study import Study

    return Study.load(name, storage)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"rheostat.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'rheostat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
