"""The derivative of goals in everything that a solution takes from its data, from one solve for each goal."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from torch import Tensor

from solset.attribution import Attribution, require_names
from solset.changes import Change, Decay, Move, Relabel, Reweight
from solset.derivatives import Linearisation, Response
from solset.errors import SolsetWarning, Status
from solset.goals import Slopes
from solset.problem._point import LinearisedMap, TrainedPoint
from solset.risk import plain_targets, targets_obstacle
from solset.solvers import Solution

SMALL = 0.1  # share of the largest effect of a removal up to which that of the leftover gradient is small


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The adjoint solution ``y = (Aᵀ)⁺ ∇φ`` of some goals, from which every derivative is a product.

    With ``C`` the data operator of any kind of change, the derivative in its coordinates is ``-Cᵀ y``. Each
    method returns the derivatives of ``k`` goals, or ``None`` with a sentence that says why there are none.
    """

    point: TrainedPoint  # Trained point with the network and the data
    line: Linearisation  # Linearisation from which the solution comes
    # Adjoint solutions as columns, ``(m, k)``, for the rows of all outputs where ``A`` are rows
    vectors: Tensor

    def features(self) -> tuple[Tensor | None, str]:
        """The derivative in the features, ``(k, n, *input)``."""
        points, count = self.point.risk.points, self.vectors.shape[1]
        if points.tree is not None and points.moving is None:
            return None, "no derivative in features: the inputs are whole numbers, such as token ids"
        entries = count * len(points) * prod(points.feature_shape)
        size, room = entries * self.vectors.element_size(), self.point.memory_budget
        if size > room:
            text = f"no derivative in features: {count} goals take {size / 2**30:.3g} GiB, more than the"
            return None, f"{text} memory budget of {room / 2**30:.3g}; ask for fewer goals at once"
        return self._along(Move(), "features")

    def weights(self) -> tuple[Tensor | None, str]:
        """The derivative in the points' factors, ``(k, n)``."""
        values, reason = self._along(Reweight(), "the points' weights")
        if values is not None and self.line.map.keeps_outputs:
            reason = "weights of points are 0: fitted weights stay a solution whatever each point counts"
        return values, reason

    def targets(self) -> tuple[Tensor | None, str]:
        """The derivative in the targets, ``(k, n, ...)``."""
        sweep = self.point.sweep
        obstacle = targets_obstacle(self.point.risk, sweep.outputs, sweep.targets)
        if obstacle:
            return None, f"no derivative in targets: {obstacle}"
        return self._along(Relabel(), "targets")

    def decay(self) -> tuple[Tensor | None, str]:
        """The derivative in a common ``λ``, ``(k,)``."""
        values, reason = self._along(Decay(1.0), "the weight decay")
        return values if values is None else values.squeeze(1), reason

    def _along(self, change: Change, what: str) -> tuple[Tensor | None, str]:
        """The derivative in the coordinates of a kind of change, ``(k, *coordinates)``."""
        point, optimality = self.point, cast("LinearisedMap", self.line.map)
        try:
            data = optimality.data(change, point.risk, point.memory_budget)
            shape = change.space(point.risk).shape
            return -(data.T @ self.vectors).T.reshape(self.vectors.shape[1], *shape), ""
        except ValueError as error:
            reason = "no weight decays" if isinstance(change, Decay) and not point.risk.has_decay else error
            return None, f"no derivative in {what}: {reason}"


def attributed(
    point: TrainedPoint,
    response: Response,
    slopes: Slopes,
    *,
    names: Sequence[str] | None,
    with_features: bool,
) -> Attribution:
    """The derivatives of goals at a linearisation; warns of what speaks against them.

    Args:
        point: Trained point with the network and the data.
        response: Chosen element of the linearisation for moves of all points.
        slopes: Values of the goals, with their derivatives in the weights.
        names: Name of each point; ``None`` for none.
        with_features: Whether the derivative in the features is computed.
    """
    line = response.linearisation
    require_names(names, len(point.risk.points))
    solved = line.system.trusted(response.adjoint(slopes.gradients))
    vectors = solved.value
    adjoint = Adjoint(point, line, line.of_outputs(vectors))
    parts = {
        "weights": adjoint.weights(),
        "features": adjoint.features() if with_features else (None, ""),
        "targets": adjoint.targets(),
        "decay": adjoint.decay(),
    }
    doubts = [*line.premises.failures, *_doubts(line, vectors, parts["weights"][0], solved)]
    for doubt in doubts:
        warnings.warn(doubt, SolsetWarning, stacklevel=3)
    remarks = [
        line.system.doubt if line.system.is_blind else "",  # warned of when it was prepared
        line.map.remark,
        *(note for _, note in parts.values()),
        _share(solved.residual) if solved.status is Status.INCONSISTENT and line.map.keeps_outputs else "",
    ]
    values = {name: _one(value, slopes) for name, (value, _) in parts.items()}
    decay = values.pop("decay")
    return Attribution(
        value=slopes.values if slopes.is_block else float(slopes.values),
        **values,
        decay=decay if decay is None or slopes.is_block else float(decay),
        labels=_classes(point),
        names=names,
        status=solved.status,
        notes=(*doubts, *filter(None, remarks)),
    )


def _classes(point: TrainedPoint) -> Tensor | None:
    """The class of each point; ``None`` where targets are no classes."""
    plain = plain_targets(point.risk, point.sweep.targets)
    has_classes = point.risk.points.targets is None and not plain.is_floating_point() and plain.ndim == 1
    return plain if has_classes else None


def _one(value: Tensor | None, slopes: Slopes) -> Tensor | None:
    return value if value is None or slopes.is_block else value[0]


def _share(residual: float) -> str:
    return (
        f"solutions differ in the goal to first order (share {residual:.2g} of its gradient): the "
        f"derivatives are those at the nearest solution"
    )


def _doubts(line: Linearisation, vectors: Tensor, weights: Tensor | None, solved: Solution) -> list[str]:
    """Sentences on an adjoint solve that failed, on solutions that differ, and on a training that went on."""
    if solved.status not in {Status.CONVERGED, Status.INCONSISTENT, Status.DOUBTFUL}:
        end = f"ended with status '{solved.status}' at relative residual {solved.residual:.3g}"
        return [f"the adjoint solve {end}: the derivatives cannot be trusted; take another solver"]
    doubts = []
    if solved.status is Status.INCONSISTENT and not line.map.keeps_outputs:
        rank = "" if line.rank is None else f"at a Hessian of rank {line.rank} of {line.rows} "
        doubts.append(rank + _share(solved.residual))
    if line.map.keeps_outputs or weights is None or not line.warns:
        return doubts
    drift, effects = (line.gradient @ vectors).abs(), weights.abs().amax(dim=1)
    ratio = float((drift / effects).nan_to_num(0.0).max())
    if ratio > SMALL:
        cure = "train further"
        if not line.map.feels_gradient:
            cure += ", or take the derivatives as those of the weights as they are"
        doubts.append(
            f"training had not stopped: the leftover gradient alone would change the goal {ratio:.3g} times "
            f"as much as the removal of any point ({float(effects.max()):.3g}); {cure}"
        )
    return doubts
