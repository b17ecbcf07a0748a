"""The empirical risk of a network: its parameters, points, loss and gradient."""

from solset.risk._batching import Room, in_batches, is_out_of_memory
from solset.risk._decay import WeightDecay, decay_of
from solset.risk._empirical import EmpiricalRisk, Loss, Reduction, Sweep
from solset.risk._heads import fit_at, losses_at, output_shape, slopes_at, through_loss
from solset.risk._identity import digest, identity, settings_of, without_addresses
from solset.risk._layout import Layout, choose_parameters, flat_rows
from solset.risk._points import Indices, Points, as_points
from solset.risk._probe import probe_indices, probe_model, reduction_of, refuse_model, verify_loss
from solset.risk._routes import Routes

__all__ = [
    "EmpiricalRisk",
    "Indices",
    "Layout",
    "Loss",
    "Points",
    "Reduction",
    "Room",
    "Routes",
    "Sweep",
    "WeightDecay",
    "as_points",
    "choose_parameters",
    "decay_of",
    "digest",
    "fit_at",
    "flat_rows",
    "identity",
    "in_batches",
    "is_out_of_memory",
    "losses_at",
    "output_shape",
    "probe_indices",
    "probe_model",
    "reduction_of",
    "refuse_model",
    "settings_of",
    "slopes_at",
    "through_loss",
    "verify_loss",
    "without_addresses",
]
