"""A trained network with its loss and its data: what is known before anything is linearised."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from solset.changes import Change, Move, require_change
from solset.checks import points_of
from solset.derivatives import Premise
from solset.linalg import Space
from solset.problem._entrance import weights_of
from solset.problem._interpolating import Interpolating
from solset.problem._point import TrainedPoint
from solset.risk import EmpiricalRisk, Indices, Sweep, fit_at, in_double, network_of, statistics_held

# Not `Self`, which the run-time checks of the tests take in decorated classes only.
Kind = TypeVar("Kind", bound="TrainedProblem")


class TrainedProblem:
    """The state of a problem, and the same problem for other data, weights or points.

    Attributes:
        output_count: Number ``c`` of outputs of one point.
        is_stationary: Whether the gradient norm is at most the tolerance of the problem.
        memory_budget: Bytes that stored graphs may take, and again rows with their Gram matrix.
        spill_folder: Folder on whose disk rows are stored while they are in use; ``None`` for none.
    """

    output_count: int
    is_stationary: bool
    memory_budget: int
    spill_folder: Path | None
    _risk: EmpiricalRisk
    _sweep: Sweep
    _at_door: tuple[Premise, ...]
    _warns: bool
    _gradient_tol: float

    def risk(self) -> EmpiricalRisk:
        """The empirical risk at ``(x̄, w̄)``; its methods move it to other data and weights."""
        return self._risk

    def gradient(self) -> Tensor:
        """The optimality map ``R(x̄, w̄) = ∇_w E``, ``(p,)``, computed when the problem was built."""
        return self._sweep.gradient

    def weights(self) -> Tensor:
        """The trained weights ``w̄``, flat in ``named_parameters`` order, ``(p,)``."""
        return self._risk.weights

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one point's features, those that move.

        Raises:
            ValueError: If nothing in the inputs can move.
        """
        self._risk.points.require_moving()
        return self._risk.points.feature_shape

    @property
    def point_count(self) -> int:
        """``n``, the number of training points."""
        return len(self._risk.points)

    def __repr__(self) -> str:
        network, _ = network_of(self._risk.model, {})
        return (
            f"Problem({type(network).__name__}, n={self.point_count}, p={len(self.weights())}, "
            f"c={self.output_count}, gradient norm {float(self._sweep.gradient.norm()):.3g}"
            f"{', running statistics held' if statistics_held(network) else ''})"
        )

    def restrict(
        self: Kind, *, points: Indices | None = None, parameters: Sequence[str] | None = None
    ) -> Kind:
        """The same trained point with the constraints of some points only, or with some weights that move.

        ``problem.restrict(parameters=["layers.0"])`` lets one layer move and no other weight.
        ``problem.restrict(points=[k])`` is the paper's setting of a single point. The points that remain are
        numbered from 0.

        Args:
            points: Indices of the points whose constraints stay; the factor ``α`` of each in the risk stays
                as it was among all points. All points by default.
            parameters: Name patterns of the weights that may still move; all others stay at their trained
                values. All by default.

        Raises:
            TypeError: If points are not integers, or the patterns are one string.
            ValueError: If points are empty, repeated or out of range, or a pattern matches no weight.

        Cost: one gradient over the points that remain.
        """
        risk = self._risk
        if points is not None:
            risk = replace(risk.select(points), weight_decay=risk.weight_decay, penalty=risk.penalty)
        if parameters is not None:
            risk = risk.restrict(parameters)
        return self._of(risk)

    def in_double(self: Kind) -> Kind | None:
        """The same problem in float64; ``None`` where network or loss do not take it. Cost: one gradient."""
        double = in_double(self._risk)
        return self._of(double) if double.weights.dtype == torch.float64 else None

    def _of(self: Kind, risk: EmpiricalRisk, weights: Tensor | None = None) -> Kind:
        """The same problem for another risk, at its own weights or at others; computes one gradient."""
        if weights is not None:
            present = self.weights()
            risk = risk.at(Space("weights", (len(present),), present.dtype, present.device).flatten(weights))
        other = copy.copy(self)
        other._warns = self._warns and weights is None  # other weights need not be a solution
        for cached in ("fit", "point"):
            other.__dict__.pop(cached, None)
        other._risk = risk
        other._sweep = risk.sweep()
        other.is_stationary = self.is_stationary or weights is not None  # not judged on the way to solutions
        return other

    def moved_to(self: Kind, change: Change, weights: Tensor) -> Kind:
        """The same problem on changed data at other weights ``(x̄ + Δx, w)``, to linearise again there.

        Nothing is checked again and no warning is given; :meth:`gradient` and :attr:`fit` of the new problem
        say how far the weights are from its solution set.

        Args:
            change: Change of this problem's data, such as ``solset.Move(points, dx)``.
            weights: New weights ``w``, ``(p,)``, flat in ``named_parameters`` order.

        Raises:
            ValueError: If shapes do not fit.

        Cost: one gradient.
        """
        require_change(change)
        return self._of(change.applied_to(self._risk), weights)

    def with_model(self: Kind, model: nn.Module) -> Kind:
        """The same problem at the weights, constants and buffers of another trained copy of the network.

        No warning is given if these weights are not a minimum; :meth:`gradient` says how far they are.

        Args:
            model: Module in evaluation mode whose moving weights have the same names, shapes and dtype.

        Raises:
            ValueError: If a weight is missing or of another shape, or the model is in training mode.

        Cost: one gradient.
        """
        other = self._of(self._risk.holding(model), weights_of(model, self._risk.layout))
        other.is_stationary = float(other.gradient().norm()) <= self._gradient_tol
        return other

    def check_points(self, points: Indices | None) -> list[int]:
        """The indices as a list, all of them for ``None``.

        Args:
            points: Distinct indices; ``None`` stands for all points.

        Raises:
            TypeError: If they are not integers.
            ValueError: If they are empty, repeated or out of range.
        """
        return points_of(points, self.point_count)

    def data_space(self, points: Indices | None) -> Space:
        """The shape, dtype and device that a change of these points' features must have."""
        return Move(self.check_points(points)).space(self._risk)

    @cached_property
    def point(self) -> TrainedPoint:
        """The trained point that optimality maps linearise at; it holds what was prepared there."""
        return TrainedPoint(
            self._risk,
            sweep=self._sweep,
            fit=self.fit,
            memory_budget=self.memory_budget,
            spill_folder=self.spill_folder,
            at_door=self._at_door,
            warns=self._warns,
            is_stationary=self.is_stationary,
        )

    @cached_property
    def fit(self) -> float:
        """Mean over points of ``‖∇_f L(f(x_i), y_i)‖``, the gradient of the loss in the outputs; 0 if fitted.

        Cost: one pass through the loss; the network is not run.
        """
        return fit_at(self._risk, self._sweep.outputs, self._sweep.targets)

    @property
    def misfit(self) -> float:
        """The fit relative to that of a constant output, the same for all points; 0 if fitted."""
        return self.point.misfit

    @property
    def gram_fits(self) -> bool:
        """Whether all rows of ``J`` and their Gram matrix fit the memory budget."""
        return self.point.gram_fits

    @property
    def is_fitted(self) -> bool:
        """Whether the interpolating map applies: the outputs are fitted, without weight decay."""
        return not Interpolating().refusal(self.point)
