"""The empirical risk of a network: its parameters, points, loss and gradient."""

from solset.risk._batching import Room, Routes, Sweep, in_batches, is_out_of_memory
from solset.risk._called import (
    asked_for,
    called,
    filling_rows,
    network_of,
    plain_operations,
    require_derivatives,
    with_loss,
)
from solset.risk._door import Moves, Pick, open_door, picked, style_of
from solset.risk._double import in_double, in_float64
from solset.risk._embeddings import embedding_of
from solset.risk._empirical import EmpiricalRisk, Loss, Reduction
from solset.risk._heads import (
    fit_at,
    flat_points,
    gradient_scale,
    losses_at,
    misfit_at,
    output_shape,
    require_logits,
    slopes_at,
    through_loss,
)
from solset.risk._identity import digest, identity, settings_of, without_addresses
from solset.risk._layout import Layout, choose_parameters, flat_rows, matches
from solset.risk._learned import beside_outputs, moving
from solset.risk._losses import WholeBatch
from solset.risk._opening import check_loss, opened
from solset.risk._other_data import (
    as_weighed,
    candidates,
    has_number_targets,
    joined,
    new_factors,
    require_points,
    target_form,
    target_rows,
    targets_obstacle,
    with_factors,
    with_targets,
)
from solset.risk._points import Indices, Points
from solset.risk._probe import (
    probe_indices,
    probe_model,
    refuse_model,
    refuse_module,
    statistics_held,
)
from solset.risk._regularisation import Penalty, WeightDecay, check_penalty, decay_of, one_number
from solset.risk._settings import settings_now
from solset.risk._sources import Source, as_points, source_of
from solset.risk._tree_loss import own_loss
from solset.risk._trees import as_tensors, mapped, named_tensors
from solset.risk._verified import reduction_of, verified
from solset.risk._weighed import WeighedLoss, plain_targets, point_factors, sample_factors

__all__ = [
    "EmpiricalRisk",
    "Indices",
    "Layout",
    "Loss",
    "Moves",
    "Pick",
    "Penalty",
    "Points",
    "Reduction",
    "Room",
    "Routes",
    "Source",
    "Sweep",
    "WeighedLoss",
    "WholeBatch",
    "WeightDecay",
    "as_points",
    "as_tensors",
    "as_weighed",
    "asked_for",
    "beside_outputs",
    "called",
    "candidates",
    "check_loss",
    "check_penalty",
    "choose_parameters",
    "decay_of",
    "digest",
    "embedding_of",
    "fit_at",
    "gradient_scale",
    "filling_rows",
    "flat_rows",
    "identity",
    "has_number_targets",
    "in_double",
    "in_float64",
    "joined",
    "in_batches",
    "is_out_of_memory",
    "losses_at",
    "mapped",
    "matches",
    "flat_points",
    "misfit_at",
    "moving",
    "named_tensors",
    "network_of",
    "new_factors",
    "one_number",
    "open_door",
    "opened",
    "output_shape",
    "own_loss",
    "picked",
    "plain_operations",
    "plain_targets",
    "point_factors",
    "probe_indices",
    "probe_model",
    "reduction_of",
    "refuse_model",
    "refuse_module",
    "require_derivatives",
    "require_logits",
    "require_points",
    "sample_factors",
    "settings_now",
    "settings_of",
    "slopes_at",
    "source_of",
    "statistics_held",
    "style_of",
    "target_form",
    "target_rows",
    "targets_obstacle",
    "through_loss",
    "verified",
    "with_factors",
    "with_loss",
    "with_targets",
    "without_addresses",
]
