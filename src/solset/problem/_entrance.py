"""What is looked at before there is a problem: model, data, loss, stationarity and derivatives."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from solset import comm
from solset.checks import cure_for, positive, require
from solset.derivatives import Premise, Verdict
from solset.errors import SolsetWarning, bad_type, bad_value
from solset.problem._derivatives import derivative_premise, unverified
from solset.risk import (
    EmpiricalRisk,
    Layout,
    Loss,
    Moves,
    Penalty,
    Pick,
    Sweep,
    WeightDecay,
    asked_for,
    beside_outputs,
    check_penalty,
    choose_parameters,
    decay_of,
    digest,
    gradient_scale,
    moving,
    open_door,
    opened,
    probe_indices,
    probe_model,
    reduction_of,
    refuse_model,
    sample_factors,
    settings_now,
    source_of,
    statistics_held,
    verified,
    with_loss,
)

STATIONARY = 1e-3  # gradient norm of stationary weights, relative to the terms that cancel in it


@dataclass(frozen=True, eq=False)
class Opened:
    """A trained point that passed the checks."""

    risk: EmpiricalRisk  # Empirical risk at the trained weights
    sweep: Sweep  # Results of one pass over all points
    output_count: int  # Number of outputs of a point
    premises: tuple[Premise, ...]  # Premises of certificates that were checked
    warns: bool  # Whether answers warn of a gradient that is left
    gradient_tol: float  # Largest gradient norm at which weights count as stationary


def open_problem(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    weight_decay: WeightDecay,
    penalty: Penalty | None,
    sample_weights: Tensor | None,
    parameters: Sequence[str] | None,
    moves: Moves,
    outputs: Pick,
    target_moves: bool | None,
    batch_size: int,
    gradient_tol: float | None,
    verify_derivatives: bool,
) -> Opened:
    """The checks that every problem passes; arguments, errors and cost as for :class:`Problem`."""
    require("model", model, nn.Module, cure=cure_for("Problem", model, "Wrap it in an nn.Module."))
    _require_function(loss)
    require("gradient_tol", gradient_tol, float | None, cure="Leave it out.")
    require("batch_size", batch_size, int, cure="Leave it out.")
    positive("batch_size", batch_size, cure="Leave it out.")
    refuse_model(model)
    learned = asked_for(loss, parameters)
    model = model if learned is None else with_loss(model, learned)
    settings = settings_now(model, loss)
    layout, named = choose_parameters(model, parameters), dict(model.named_parameters())
    weights = layout.join([named[name].detach() for name in layout.shapes]).clone()
    decay = decay_of(weight_decay, layout, named)
    kink = "" if penalty is None else check_penalty(penalty, named, list(layout.shapes))
    risk = _risk_of(model, loss, inputs, targets, layout, weights, decay, batch_size, penalty, moves, outputs)
    risk = risk if learned is None else beside_outputs(risk, target_moves)
    risk, output_count = _probed(risk, target_moves)
    factors = None if sample_weights is None else sample_factors(sample_weights, len(risk.points), weights)
    risk, sweep, premises = _with_verified_loss(risk, factors)
    warns, tol, scale = _warned_of_drift(risk, sweep, gradient_tol)
    verdict = derivative_premise(risk, sweep.outputs, sweep.targets) if verify_derivatives else unverified()
    of_penalty = [Premise("kinks", Verdict.FAILED, kink)] if kink else []
    risk = replace(risk, settings=settings.steady())  # without what the calls above have written
    return Opened(risk, sweep, output_count, (*premises, scale, *of_penalty, verdict), warns, tol)


def _probed(risk: EmpiricalRisk, target_moves: bool | None) -> tuple[EmpiricalRisk, int]:
    """The risk with the reduction that a few points show, and the number of outputs of a point."""
    few = probe_indices(len(risk.points))
    risk = opened(risk, few, target_moves=target_moves)
    outputs = probe_model(risk)
    if not risk.is_whole:
        risk = replace(risk, reduction=reduction_of(risk.loss, outputs, risk.points[few][1], strict=False))
    return risk, outputs[0].numel()


def _require_function(loss: object) -> None:
    if not callable(loss) or isinstance(loss, type):
        kind = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
        cure = "Pass one of torch.nn's losses, such as nn.CrossEntropyLoss()."
        raise bad_type("loss", expected="a callable (outputs, targets) -> scalar", got=kind, cure=cure)


def _risk_of(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    layout: Layout,
    weights: Tensor,
    decay: float | Tensor,
    batch_size: int,
    penalty: Penalty | None,
    moves: Moves,
    outputs: Pick,
) -> EmpiricalRisk:
    """The risk of a mean, before it is known whether the loss is one."""
    source = source_of(inputs, targets, weights[:0])
    few = probe_indices(source.count)
    points, door = open_door(model, source, few, weights[:0], moves=moves, pick=outputs)
    held = [weights, torch.as_tensor(decay, dtype=torch.float64)]
    comm.require_same("model", lambda: str([len(points), dict(layout.shapes), digest(held), batch_size]))
    if points.tree is None and points[few][0].dtype != weights.dtype:
        cure = "Use `inputs.to(dtype)` or `model.to(dtype)`."
        got = str(points[few][0].dtype)
        raise bad_value("inputs", expected=f"{weights.dtype}, like the model", got=got, cure=cure)
    count = len(points)
    risk = EmpiricalRisk(
        model, loss, "mean", points, layout, weights, decay, batch_size, count, door=door, penalty=penalty
    )
    return risk.holding(model)


def _with_verified_loss(
    risk: EmpiricalRisk, factors: Tensor | None
) -> tuple[EmpiricalRisk, Sweep, tuple[Premise, ...]]:
    """The risk with what the loss is on all points, from the outputs of one sweep."""
    sweep = risk.sweep()
    if not bool(torch.isfinite(sweep.outputs).all()):
        return risk, sweep, ()
    checked_risk = verified(risk, sweep.outputs, sweep.targets, factors)
    if risk.door.learned:
        checked_risk = moving(checked_risk, sweep.outputs, sweep.targets)
    sweep = sweep if checked_risk is risk else checked_risk.sweep()
    return checked_risk, sweep, (Premise("loss", Verdict.HELD),)  # one that fails is refused


def _warned_of_drift(risk: EmpiricalRisk, sweep: Sweep, asked: float | None) -> tuple[bool, float, Premise]:
    """Warns of weights that are not stationary; returns whether answers do too, tolerance and premise."""
    size = float(sweep.gradient.norm())
    if not size < float("inf"):
        broken = [] if risk.is_whole else (~torch.isfinite(risk.losses())).nonzero().flatten().tolist()
        got = f"values that are not finite in points {broken[:5]}" if broken else f"gradient norm {size}"
        cure = "Look at the outputs there: they overflow, or leave the loss's domain."
        raise bad_value("loss", expected="finite, with a finite gradient", got=got, cure=cure)
    scale = gradient_scale(risk, sweep.outputs)
    usual = STATIONARY * scale if 0 < scale < float("inf") else STATIONARY
    tol = usual if asked is None else asked
    if size > tol:
        held = statistics_held(risk.model)
        warnings.warn(
            f"the weights are not stationary: the gradient norm of the risk is {size:.3g} (tolerance "
            f"{tol:.3g}). Unless the data are fitted, estimates are by the proximal map, which starts from "
            f"the weights as they are, and whose answers have no calibrated length without "
            f"Proximal(recipe=filters.Recipe.of(optimizer, model)); "
            f'optimality="stationary" asks for a set that they are not on. Pass the '
            f"weight_decay of training if it had one, or raise gradient_tol to accept the gradient"
            + (f". Also, {held}" if held else ""),
            SolsetWarning,
            stacklevel=4,
        )
    premise = Premise("scale", Verdict.HELD)
    if size > usual:
        times = f"{size / usual:.2g} times the tolerance"
        text = f"the weights are not stationary: the gradient norm is {size:.3g}, {times}"
        premise = Premise("scale", Verdict.UNCHECKED, text)
    return tol <= max(usual, STATIONARY), tol, premise


def weights_of(model: nn.Module, layout: Layout) -> Tensor:
    """The weights of another copy of the network, flat ``(p,)``, refused where the layout is another."""
    refuse_model(model)
    named, shapes = dict(model.named_parameters()), layout.shapes
    unlike = [name for name in shapes if name not in named or named[name].shape != shapes[name]]
    if unlike:
        expected = "a network with the names and shapes of the problem's weights"
        got = f"one without {unlike[:3]} in these shapes"
        raise bad_value("model", expected=expected, got=got, cure="Build the same network.")
    return layout.join([named[name].detach() for name in shapes])
