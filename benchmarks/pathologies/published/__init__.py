"""Published rules for the same question, on the same observations and with their own thresholds.

Each is a function from a run to causes in our names, the likeliest first; an empty list is "nothing wrong". The module
of each says how its words map to ours, and which of its rules are left out because they need what is not observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.pathologies.published import autotrainer, cs231n, deepdiagnosis, sagemaker, umlaut
from rheostat.diagnose.base import Observations

RULES: Mapping[str, Callable[[Observations], list[str]]] = {
    "AutoTrainer": autotrainer.causes,
    "UMLAUT": umlaut.causes,
    "SageMaker Debugger": sagemaker.causes,
    "DeepDiagnosis": deepdiagnosis.causes,
    "cs231n": cs231n.causes,
}
