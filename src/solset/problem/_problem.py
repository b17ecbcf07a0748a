"""The problem: a trained network with its loss and its data, where networks and sets meet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from solset.attribution import Attribution
from solset.changes import Change, Move
from solset.checks import checked, existing_folder
from solset.derivatives import Coderivative, GraphicalDerivative, Response, Selection
from solset.goals import Goals, slopes_of
from solset.operators import InformativeRows
from solset.problem._attribution import attributed
from solset.problem._entrance import open_problem
from solset.problem._finite import Order, checked_answers, finite_answers
from solset.problem._interpolating import Interpolating, restored
from solset.problem._maps import AUTO, Optimality, linearise
from solset.problem._trained import TrainedProblem
from solset.risk import (
    Indices,
    Loss,
    Moves,
    Penalty,
    Pick,
    WeightDecay,
)
from solset.sets import AffineSet
from solset.solvers import Solver
from solset.solvers.filters import Filter


class Problem(TrainedProblem):
    """A trained network, its loss and its training data: the point where the solution map is studied.

    The constructor checks that the model is in evaluation mode, that data and outputs are the same at every
    reading, that the loss is a sum over points, and that the gradient is small. It never changes the model.

    Args:
        model: Module in evaluation mode, called as it is: with a tensor ``(b, *input)``, with the tensors of
            a tuple in order, or with those of a dict by name.
        loss: Function ``(outputs, targets) -> scalar`` that is a mean or a sum over points, or a mean whose
            weights the targets decide: class weights, ignored targets, masks. Evaluations show which of
            them it is; a ``reduction`` attribute that says otherwise is refused. A loss of all outputs at
            once is declared as ``solset.WholeBatch(loss)``.
        inputs: Training data: a tensor, array or frame with ``n`` rows; a dict or tuple of them, also nested;
            a map-style dataset of pairs, of tuples that end in the target or of dicts; or a loader that does
            not shuffle, with its collate function. All but what ``moves`` is held: masks, token ids.
        targets: Targets with ``n`` rows, one tensor or a tree; the key of the targets in dicts (by default
            ``"labels"``); ``None`` for other datasets and loaders.
        weight_decay: Factor ``λ`` of the term ``(λ/2)‖w‖²`` in the risk of the training; 0 by default. With
            one factor for each group of weights: ``{"*.bias": 0.0, "*": 1e-2}``, of which the first pattern
            that matches a name counts; or the optimizer of the training, or its ``param_groups``.
        penalty: Function of all parameters by name that the training added to the risk, and returns a scalar:
            ``lambda named: 1e-3 * named["0.weight"].abs().sum()``. None by default.
        sample_weights: Weight of each training point, ``(n,)``, at least 0: the loss of a point counts times
            its weight, and a mean is divided by their sum. Equal weights by default; the weights that the
            loss itself gives to classes or pixels are seen in its values.
        parameters: Name patterns (such as ``"layer3.*"``) of the weights that may move; by default those
            that require grad. Weights of a loss that is a module move where ``"loss.*"`` names them.
        moves: Name of the tensor of the inputs whose entries move, such as ``"pixel_values"``, or
            ``solset.embedding_of("input_ids")`` for the embeddings of token ids; by default the only tensor
            of real numbers. Whole numbers are always held.
        outputs: Attribute, key, index or function that picks what the loss takes from what the model returns,
            such as ``"logits"``; by default all of it.
        target_moves: Whether the target is the input and moves with it, as for an autoencoder; by default
            it is held, with a warning if it equals the input.
        batch_size: Number of points that are computed together; it changes the memory, not the results.
        memory_budget: Bytes that stored graphs may take, and again rows with their Gram matrix.
        spill_folder: Existing folder on whose disk rows are stored while they are in use, if they do not
            fit the budget; ``None`` computes them again at each use.
        gradient_tol: Largest gradient norm of the risk at which ``w̄`` counts as stationary; above it, a
            warning says so. By default 1e-3 times the terms that cancel in it, as those of eight points are
            for a constant output; so units of targets and loss do not matter.
        verify_derivatives: Whether autograd's derivatives are compared with differences of the module; no
            certificate is given without it. Switch it off if a model is refused for what does not matter.

    Raises:
        TypeError: If model, loss or data are of the wrong kind.
        ValueError: If shapes, dtypes, devices or modes do not fit, or numbers are not finite.

    Cost: one gradient (two where points count unequally), and a few forward passes and one gradient over a
    handful of points. The comparison of derivatives takes about one gradient of eight points by count, in
    float64 (the time of some three in float32), and the memory of a copy of the model in float64.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> change = problem.derivative()(torch.tensor([[0.1]])).min_norm()
        >>> round(float(change.value), 6)  # d(w·x = 2): dw = -w dx / x
        -0.2
    """

    asked_by = {"poison_training": "Ask solset.design_poisoning(problem, goal, budget)."}  # noqa: RUF012

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Any,
        targets: Any = None,
        *,
        weight_decay: WeightDecay = 0.0,
        penalty: Penalty | None = None,
        sample_weights: Tensor | None = None,
        parameters: Sequence[str] | None = None,
        moves: Moves = None,
        outputs: Pick = None,
        target_moves: bool | None = None,
        batch_size: int = 256,
        memory_budget: int = 4 * 2**30,
        spill_folder: Path | str | None = None,
        gradient_tol: float | None = None,
        verify_derivatives: bool = True,
    ) -> None:
        opened = open_problem(
            model,
            loss,
            inputs,
            targets,
            weight_decay=weight_decay,
            penalty=penalty,
            sample_weights=sample_weights,
            parameters=parameters,
            moves=moves,
            outputs=outputs,
            target_moves=target_moves,
            batch_size=batch_size,
            gradient_tol=gradient_tol,
            verify_derivatives=verify_derivatives,
        )
        self._risk, self._sweep, self.output_count = opened.risk, opened.sweep, opened.output_count
        self._at_door, self._warns, self._gradient_tol = opened.premises, opened.warns, opened.gradient_tol
        self.is_stationary = float(self.gradient().norm()) <= opened.gradient_tol
        self.memory_budget, self.spill_folder = memory_budget, existing_folder("spill_folder", spill_folder)

    @checked
    def derivative(
        self,
        kind: Change | type[Change] = Move,
        *,
        points: Indices | None = None,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> GraphicalDerivative:
        """The graphical derivative ``DS(x̄|w̄)`` in the coordinates of any kind of change; of moves by default.

        Args:
            kind: Change whose coordinates are meant, whatever its length, such as ``solset.Move([0, 3])``; or
                its class, for the points.
            points: Distinct indices ``K`` of the points that change, for a class; all points by default.
            optimality: Optimality map that is linearised, or its name. ``"auto"`` takes ``"interpolating"``
                if the training set is fitted and the rows of ``J`` are verified to be independent, else
                ``"stationary"``, or ``"proximal"`` where the weights are not stationary; ``.reason`` says
                why. The page on the method defines the maps.
            solver: Solver of the linear systems; by default the map chooses one that suits the sizes.
            rows: Accuracy to which the interpolating map may leave out rows of ``J``. By default all rows are
                used where their Gram matrix fits the memory budget, else ``InformativeRows()``: the rows
                that carry the curvature of the loss, and all rows of the points ``K``.

        Raises:
            ValueError: If points are empty, repeated or out of range, or the map does not apply.

        Cost: nothing is solved; ``"auto"`` builds the Gram matrix of a fitted problem to verify its rank.
        A factorisation is computed once for each problem, map and solver, and serves every kind of change.
        """
        if isinstance(kind, type):
            change: Change = kind() if points is None else kind(points)  # type: ignore[call-arg]
        else:
            change = kind
        change.chosen(self._risk)  # refused before anything is factorised
        return GraphicalDerivative(linearise(self.point, change, optimality, solver, rows))

    @checked
    def load_derivative(self, folder: Path | str) -> GraphicalDerivative:
        """The graphical derivative that :meth:`GraphicalDerivative.save` wrote, with its computed rows.

        Args:
            folder: Folder that was passed to ``save``.

        Raises:
            ValueError: If the folder holds no stored derivative, is damaged, or was computed for other
                weights, data or loss; the message says what differs.

        Cost: one read of the data and of the files.
        """
        return GraphicalDerivative(restored(self.point, Path(folder)))

    def coderivative(
        self,
        kind: Change | type[Change] = Move,
        *,
        points: Indices | None = None,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> Coderivative:
        """The coderivative ``D*S(x̄|w̄)``; arguments as for :meth:`derivative`, moves by default.

        On a selection of rows it is the coderivative of the constraint on the rows in use, and no check of
        all rows is made. The set is empty for a ``q`` outside the span of these rows.
        """
        derivative = self.derivative(kind, points=points, optimality=optimality, solver=solver, rows=rows)
        return Coderivative(derivative.linearisation)

    @checked
    def estimate(
        self,
        change: Change,
        *,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
        order: Order | None = None,
        verify: bool = True,
    ) -> AffineSet:
        """The estimated new solution set ``w̄ + DS(x̄|w̄)(Δx)`` (equations 13 to 19).

        Its elements are weights: ``.min_norm().apply_to(model)`` is a changed copy of the model. The error
        is of second order in ``‖Δx‖`` and the distance along the set together. A change that is never small,
        such as a removal, is answered by one Newton step on the changed risk, whose error is of second order
        in the step; for a quadratic risk it is exact. At a fitted point a removal only drops constraints.

        Args:
            change: Change of the training data: ``solset.Move(points, dx)``, with ``points=None`` for all.
            optimality: As for :meth:`derivative`.
            solver: As for :meth:`derivative`.
            rows: As for :meth:`derivative`.
            order: Kind of estimate: ``"first"`` by the derivative, or ``"newton"`` by one Newton step on the
                changed risk. By default ``"newton"`` for changes that are never small, and ``"first"`` for
                others, whatever the solver; one without a decomposition works on the changed matrix instead.
            verify: Whether each element is asked, by a gradient there, how far the linear model holds. An
                element that was not asked says so, and costs no pass over the data after the first one.

        Raises:
            ValueError: If change or order do not fit the data or the map.

        Warns:
            SolsetWarning: If a premise does not hold, points that leave hold a direction alone, or no weights
                keep the outputs of a fitted set as its points move apart.

        Cost: nothing is solved yet. About one gradient looks for kinks at the data, once for each problem.
        Where units are tied, about ten more over their points follow: once for all, and for those that move.
        An element takes one gradient, to see whether it holds there; one that keeps outputs takes two. One
        shorter than a tenth of the weights takes none there, and where few points move by less than 0.3 %
        of their length the gradients of these alone.
        A Newton step takes one gradient over the points concerned, then their rows of ``J``, and a few
        products over these points alone where the solver keeps a decomposition.
        """
        direction = change.direction(self._risk)  # refused before anything is factorised
        source = linearise(self.point, change, optimality, solver, rows)
        finite = finite_answers(self.point, source, change, order)
        answers = GraphicalDerivative(source)(direction, verify=verify) if finite is None else finite
        answers = (
            checked_answers(self.point, answers, change)
            if verify
            else answers.unasked(isinstance(source, Selection))
        )
        if optimality == AUTO and solver is None and isinstance(change, Move):
            answers = answers.noted(Interpolating(rows).compromise(self.point, change, direction))
        return answers.translate(self.weights(), self._risk.layout.shapes)

    @checked
    def attribute(
        self,
        goal: Goals,
        *,
        element: Filter | None = None,
        optimality: Optimality = AUTO,
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
        features: bool = True,
        names: Sequence[str] | None = None,
    ) -> Attribution:
        """The derivative of a goal in every feature, target and weight of every training point, and in ``λ``.

        All come from one adjoint solve ``y = (Aᵀ)⁺ ∇φ``: in the coordinates of a change with data operator
        ``C`` the derivative is ``-Cᵀ y``. Where ``A`` is an invertible Hessian, these are influence functions
        (Koh & Liang 2017, equations 2 and 5, with the sign of a derivative).

        Args:
            goal: Function of the model in evaluation mode that returns one number or a vector of ``k``, one
                of :mod:`solset.goals`, or a sequence of such goals, which are a block.
            element: Filter that chooses the solution: ``None`` for the nearest one, ``filters.GradientFlow``
                for what training of that duration reaches, or ``filters.Tikhonov``.
            optimality: As for :meth:`derivative`.
            solver: As for :meth:`derivative`; for rows it must solve with ``Aᵀ`` too.
            rows: As for :meth:`derivative`.
            features: Whether the derivative in the features is computed, the largest part of a block.
            names: Name of each training point for the table; by default points have numbers only.

        Raises:
            TypeError: If a goal is neither a goal nor a function, or does not return a tensor.
            ValueError: If a goal does not fit, does not depend on the weights, or is not finite.

        Warns:
            SolsetWarning: If the solve failed, a premise does not hold, a Hessian leaves the goal open, or
                training had not stopped.

        Cost: one backward pass and one solve for each goal, then one sweep for features and one for the rest.
        """
        slopes = slopes_of(goal, self._risk)
        line = self.derivative(optimality=optimality, solver=solver, rows=rows).linearisation
        return attributed(self.point, Response(line, element), slopes, names=names, with_features=features)
