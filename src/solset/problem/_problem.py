"""The trained point ``(x̄, w̄)``: the only door between networks and sets."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from solset import comm
from solset.changes import Change, Move, require_change
from solset.checks import checked, points_of, require
from solset.derivatives import Coderivative, GraphicalDerivative
from solset.errors import SolsetWarning, bad_type, bad_value
from solset.linalg import Space
from solset.operators import InformativeRows
from solset.problem._checks import check_folder, check_inputs
from solset.problem._interpolating import Interpolating, restored
from solset.problem._maps import AUTO, Optimality, linearise
from solset.problem._point import TrainedPoint
from solset.risk import (
    EmpiricalRisk,
    Indices,
    Loss,
    as_points,
    choose_parameters,
    digest,
    fit_at,
    probe_indices,
    probe_model,
    reduction_of,
    refuse_training_mode,
    verify_loss,
)
from solset.sets import AffineSet
from solset.solvers import Solver


class Problem:
    """A trained network, its loss and its training data: the point where the solution map is studied.

    Building it checks what every later number depends on: evaluation mode, repeatable data and outputs, a
    loss that is a mean or a sum over points, and a small gradient. The model is never changed.

    Args:
        model: Any module in evaluation mode that maps ``(b, *input)`` to one tensor ``(b, *out)``.
        loss: ``(outputs, targets) -> scalar``, a mean or a sum over points (its ``reduction`` attribute
            is checked by evaluation; it is found that way if there is none).
        inputs: A tensor ``(n, *input)``, a map-style dataset of pairs, or a loader that does not shuffle.
        targets: ``(n, ...)`` beside tensor inputs, else ``None``.
        weight_decay: ``λ`` of the term ``(λ/2)‖w‖²`` in the risk that was minimised.
        parameters: Name patterns (``"layer3.*"``) of the weights that may move; all by default.
        batch_size: Points per sweep; a matter of memory, not of results.
        memory_budget: Bytes that kept graphs, rows and Gram matrices may each take.
        spill_folder: Where rows that do not fit the budget are kept on the disk while they are in use;
            ``None`` computes them anew instead.
        gradient_tol: Gradient norm of the risk above which ``w̄`` is called not stationary, with a warning.

    Raises:
        TypeError: If model, loss or data are of the wrong kind.
        ValueError: If shapes, dtypes, devices or modes do not fit, or numbers are not finite.

    Cost: one gradient and a few forward passes over a handful of points.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> change = problem.graphical_derivative()(torch.tensor([[0.1]])).min_norm()
        >>> round(float(change.value), 6)  # d(w·x = 2): dw = -w dx / x
        -0.2
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Any,
        targets: Tensor | None = None,
        *,
        weight_decay: float = 0.0,
        parameters: Sequence[str] | None = None,
        batch_size: int = 256,
        memory_budget: int = 4 * 2**30,
        spill_folder: Path | str | None = None,
        gradient_tol: float = 1e-3,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise bad_type("model", expected="an nn.Module", got=type(model).__name__, cure="Wrap it in one.")
        if not callable(loss):
            raise bad_type(
                "loss",
                expected="a callable (outputs, targets) -> scalar",
                got=type(loss).__name__,
                cure="Pass one of torch.nn's losses.",
            )
        require("weight_decay", weight_decay, float, cure="Use the one of training.")
        require("gradient_tol", gradient_tol, float, cure="Leave it out.")
        if not 0 <= weight_decay < float("inf"):
            raise bad_value(
                "weight_decay",
                expected="zero or more, finite",
                got=weight_decay,
                cure="Use the one of training.",
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise bad_value("batch_size", expected="an integer from 1", got=batch_size, cure="Leave it out.")
        refuse_training_mode(model)
        layout = choose_parameters(model, parameters)
        named = dict(model.named_parameters())
        weights = layout.join([named[name].detach() for name in layout.shapes]).clone()
        points = as_points(inputs, targets, weights.device)
        same = [len(points), dict(layout.shapes), digest([weights]), weight_decay, batch_size]
        comm.require_same("model", str(same))
        probe_inputs, probe_targets = points[probe_indices(len(points))]
        check_inputs(probe_inputs, weights.dtype)
        risk = EmpiricalRisk(
            model, loss, "mean", points, layout, weights, weight_decay, batch_size, len(points)
        ).holding(model)
        outputs = probe_model(risk)
        self._risk = replace(risk, reduction=reduction_of(loss, outputs, probe_targets))
        self.input_shape = tuple(probe_inputs.shape[1:])
        self.output_count = outputs[0].numel()
        self.memory_budget, self.spill_folder = memory_budget, check_folder(spill_folder)
        self._check_stationary(gradient_tol)

    def risk(self) -> EmpiricalRisk:
        """The empirical risk at ``(x̄, w̄)``, which can be moved to other data and weights."""
        return self._risk

    def gradient(self) -> Tensor:
        """The optimality map ``R(x̄, w̄) = ∇_w E``, ``(p,)``, as found when the problem was built."""
        return self._found.gradient

    def weights(self) -> Tensor:
        """The trained weights ``w̄``, flat in ``named_parameters`` order, ``(p,)``."""
        return self._risk.weights

    @property
    def point_count(self) -> int:
        """``n``, the number of training points."""
        return len(self._risk.points)

    def __repr__(self) -> str:
        """Sizes and the gradient norm in one line."""
        return (
            f"Problem({type(self._risk.model).__name__}, n={self.point_count}, p={len(self.weights())}, "
            f"c={self.output_count}, gradient norm {float(self._found.gradient.norm()):.3g})"
        )

    def restrict(
        self, *, points: Indices | None = None, parameters: Sequence[str] | None = None
    ) -> "Problem":
        """The same trained point with the constraints of some points only, or with some weights that move.

        What one layer can answer is ``problem.restrict(parameters=["layers.0"])``; the paper's setting of one
        point by itself is ``problem.restrict(points=[k])``. Points are renumbered from 0.

        Args:
            points: Whose constraints are kept, with the ``α`` of all points; all by default.
            parameters: Name patterns of the weights that may move, among those of this problem; the others
                are held at their trained values. All by default.

        Raises:
            TypeError: If points are not integers, or the patterns are one string.
            ValueError: If points are empty, repeated or out of range, or a pattern matches no weight.

        Cost: one gradient over the points kept.
        """
        risk = self._risk
        if points is not None:
            risk = replace(risk.select(points), weight_decay=risk.weight_decay)
        if parameters is not None:
            risk = risk.restrict(parameters)
        return self._of(risk)

    def _of(self, risk: EmpiricalRisk) -> "Problem":
        """The same problem for another risk, with nothing computed but one gradient."""
        other = copy.copy(self)
        for cached in ("fit", "point"):
            other.__dict__.pop(cached, None)
        other._risk = risk
        other._found = risk.sweep()
        return other

    @checked
    def graphical_derivative(
        self,
        *,
        points: Indices | None = None,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> GraphicalDerivative:
        """The graphical derivative ``DS(x̄|w̄)`` for perturbations of the points ``K``.

        Args:
            points: ``K``, distinct indices; all points by default.
            optimality: Which optimality map to linearise (method of section 1 of the documentation);
                ``"auto"`` takes ``"interpolating"`` if the training set is fitted and the rows of ``J``
                are verified to be independent, else ``"stationary"``; ``.reason`` says why.
            solver: How to solve; by default what the map and the sizes call for.
            rows: For the interpolating map: accuracy to which rows of ``J`` may be left out. By default
                all rows are used where their Gram matrix fits the memory budget, else
                ``InformativeRows()``: those that carry the curvature of the loss and all of ``K``.

        Raises:
            ValueError: If points are empty, repeated or out of range, or the map does not apply.

        Cost: nothing is solved; ``"auto"`` builds the Gram matrix of a fitted problem to verify its rank.
        What the solver keeps is made once per problem, map and solver, and serves every later call.
        """
        return self._derivative(Move, points, optimality, solver, rows)

    def _derivative(
        self,
        kind: type[Change],
        points: Indices | None,
        optimality: Optimality,
        solver: Solver | None,
        rows: InformativeRows | None,
    ) -> GraphicalDerivative:
        chosen = self.check_points(points)
        return GraphicalDerivative(linearise(self.point, kind, chosen, optimality, solver, rows))

    @checked
    def load_derivative(self, folder: Path | str) -> GraphicalDerivative:
        """The graphical derivative that :meth:`GraphicalDerivative.save` wrote, with all it had computed.

        Args:
            folder: Given to ``save``.

        Raises:
            ValueError: If it is not a stored derivative, is damaged, or was computed for other weights,
                data or loss; says what differs.

        Cost: one read of the data and of the files.
        """
        return GraphicalDerivative(restored(self.point, Path(folder)))

    def coderivative(
        self,
        *,
        points: Indices | None = None,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> Coderivative:
        """The coderivative ``D*S(x̄|w̄)``; arguments as for :meth:`graphical_derivative`.

        On a selection of rows it is the coderivative of the constraint on the rows in use, unchecked: empty
        for ``q`` outside their range.
        """
        derivative = self.graphical_derivative(points=points, optimality=optimality, solver=solver, rows=rows)
        return Coderivative(derivative.linearisation)

    @checked
    def estimate(
        self,
        change: Change,
        *,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> AffineSet:
        """The estimated new solution set ``w̄ + DS(x̄|w̄)(Δx)`` (equations 13 to 19).

        Its elements are weights: ``.min_norm().apply_to(model)`` is a changed copy of the model. The error
        is second order in ``‖Δx‖`` and the distance along the set together.

        Args:
            change: Change of the training data: ``solset.Move(points, dx)``, with ``points=None`` for all.
            optimality: As for :meth:`graphical_derivative`.
            solver: As for :meth:`graphical_derivative`.
            rows: As for :meth:`graphical_derivative`.
        """
        direction = change.direction(self._risk)  # refused before anything is factorised
        derivative = self._derivative(type(change), change.points, optimality, solver, rows)
        return derivative(direction).translate(self.weights(), self._risk.layout.shapes)

    def moved_to(self, change: Change, weights: Tensor) -> "Problem":
        """The same problem on changed data at other weights: where to linearise again, ``(x̄ + Δx, w)``.

        Nothing is checked anew and nothing warns: off the solution set, :meth:`gradient` and :attr:`fit`
        say how far.

        Args:
            change: Change of this problem's data, such as ``solset.Move(points, dx)``.
            weights: New weights ``w``, ``(p,)``, flat in ``named_parameters`` order.

        Raises:
            ValueError: If shapes do not fit.

        Cost: one gradient.
        """
        require_change(change)
        present = self.weights()
        flat = Space("weights", (len(present),), present.dtype, present.device).flatten(weights)
        return self._of(change.applied_to(self._risk).at(flat))

    def with_model(self, model: nn.Module) -> "Problem":
        """The same problem at what another training of the network reached: weights, constants and buffers.

        Nothing warns if that is not a minimum; :meth:`gradient` says how far it is.

        Args:
            model: In evaluation mode, with the same names, shapes and dtype of the weights that move.

        Raises:
            ValueError: If such a weight is missing or does not fit, or batch statistics or dropout are live.

        Cost: one gradient.
        """
        refuse_training_mode(model)
        named, shapes = dict(model.named_parameters()), self._risk.layout.shapes
        unlike = [name for name in shapes if name not in named or named[name].shape != shapes[name]]
        if unlike:
            raise bad_value(
                "model",
                expected="of the problem's kind",
                got=f"one without {unlike[:3]} in the problem's shapes",
                cure="Build the same network.",
            )
        found = self._risk.layout.join([named[name].detach() for name in shapes])
        own = self.weights()
        flat = Space("weights", (len(own),), own.dtype, own.device).flatten(found)
        return self._of(self._risk.holding(model).at(flat))

    def check_points(self, points: Indices | None) -> list[int]:
        """The indices as a list, all of them for ``None``.

        Args:
            points: Distinct indices.

        Raises:
            TypeError: If they are not integers.
            ValueError: If they are empty, repeated or out of range.
        """
        return points_of(points, self.point_count)

    def data_space(self, points: Indices | None) -> Space:
        """The shape of a perturbation of these points at the door."""
        return Move.space(self._risk, self.check_points(points))

    @cached_property
    def point(self) -> TrainedPoint:
        """The trained point as optimality maps see it, with what was prepared there."""
        return TrainedPoint(
            self._risk,
            sweep=self._found,
            fit=self.fit,
            memory_budget=self.memory_budget,
            spill_folder=self.spill_folder,
        )

    @cached_property
    def fit(self) -> float:
        """Mean over points of ``‖∇_f L(f(x_i), y_i)‖``: how far the outputs are from fitted.

        Cost: a pass through the loss alone; no point is read.
        """
        return fit_at(self._risk, self._found.outputs, self._found.targets)

    @property
    def gram_fits(self) -> bool:
        """Whether all rows of ``J`` and their Gram matrix fit the memory budget, without being asked for."""
        return self.point.gram_fits

    @property
    def is_fitted(self) -> bool:
        """Whether the interpolating map applies: outputs fitted (see :attr:`fit`), and no weight decay."""
        return not Interpolating().refusal(self.point)

    def _check_stationary(self, tol: float) -> None:
        self._found = self._risk.sweep()
        size = float(self._found.gradient.norm())
        if size < float("inf"):
            verify_loss(self._risk, self._found.outputs, self._found.targets)
        else:
            losses = self._risk.losses()
            broken = (~torch.isfinite(losses)).nonzero().flatten().tolist()
            raise bad_value(
                "loss",
                expected="finite, with a finite gradient, on every point",
                got=f"values that are not finite in points {broken[:5]}"
                if broken
                else f"gradient norm {size}",
                cure="Look at the outputs there: they overflow, or leave the loss's domain.",
            )
        if size > tol:
            warnings.warn(
                f"the weights are not stationary: the gradient norm of the risk is {size:.3g} (tolerance "
                f"{tol:.3g}); estimates describe a set that the weights are not on. Train further, pass the "
                f"weight_decay of training, or raise gradient_tol",
                SolsetWarning,
                stacklevel=3,
            )
