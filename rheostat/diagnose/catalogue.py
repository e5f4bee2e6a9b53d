"""All pathologies that are known, in the order in which they arise: data and network first, then rates, then ends."""

from __future__ import annotations

from collections.abc import Mapping

from rheostat.diagnose.base import Pathology
from rheostat.diagnose.pathologies import (
    bad_initialisation,
    batch_too_large,
    batch_too_small,
    class_collapse,
    clipped_too_hard,
    dead_units,
    decay_too_early,
    diverged,
    double_softmax,
    early_instability,
    frozen_layer,
    input_scale,
    label_noise,
    leak,
    lr_too_high,
    lr_too_low,
    metric_mismatch,
    needs_decay,
    non_finite_input,
    not_learning,
    not_shuffled,
    out_of_memory,
    over_regularised,
    overfitting,
    rising_loss,
    saturated_units,
    spikes,
    too_short,
    too_small,
    vanishing_gradient,
    wrong_head,
)

_MODULES = (
    # before the first update
    non_finite_input,
    out_of_memory,
    input_scale,
    bad_initialisation,
    double_softmax,
    wrong_head,
    frozen_layer,
    not_shuffled,
    label_noise,
    leak,
    # steps
    diverged,
    lr_too_high,
    lr_too_low,
    early_instability,
    spikes,
    rising_loss,
    needs_decay,
    decay_too_early,
    clipped_too_hard,
    batch_too_large,
    batch_too_small,
    # inside the network
    dead_units,
    saturated_units,
    vanishing_gradient,
    not_learning,
    class_collapse,
    # the end of training
    too_small,
    over_regularised,
    overfitting,
    metric_mismatch,
    too_short,
)
PATHOLOGIES: Mapping[str, Pathology] = {module.PATHOLOGY.name: module.PATHOLOGY for module in _MODULES}
LEARNT = tuple(name for name, pathology in PATHOLOGIES.items() if pathology.learnt)
