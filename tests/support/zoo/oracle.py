"""Central differences of the gradient and of the outputs, with the weights set in the module itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .combinations import Training

STEP = 1e-5  # of weights and inputs of size 1; differences over it and its half are extrapolated to zero
FLOOR = 1e-11  # size of a right-hand side, relative to the matrix, that rounding of the differences explains
EXACT = 1e-8  # relative size below which an eigenvalue is one of the kernel, for the oracle's accuracy


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])


class Differences:
    """The gradient of the risk and all outputs as functions of weights and inputs, in float64."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.leaves: list[nn.Parameter] = [*training.moving, *training.learned]
        self.start = flat(self.leaves)

    def at(self, w: Tensor, x: Tensor) -> Tensor:
        """The gradient and the outputs, one after the other."""
        self._set(w)
        for leaf in self.leaves:
            leaf.grad = None
        moved = replace(self.training, inputs=x.clone())
        outputs = moved.model(moved.inputs)
        risk = moved.loss(outputs, moved.targets)
        risk.backward()  # not autograd.grad, which the older activation checkpointing refuses
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves]
        count = len(moved.moving)
        decayed = [
            g + moved.weight_decay * p.detach() * (k < count)
            for k, (g, p) in enumerate(zip(grads, self.leaves, strict=True))
        ]
        return torch.cat([flat(decayed), outputs.detach().reshape(-1)])

    def gradient(self, w: Tensor) -> Tensor:
        return self.at(w, self.training.inputs)[: len(w)]

    def reset(self) -> None:
        self._set(self.start)
        for leaf in self.leaves:
            leaf.grad = None

    def _set(self, w: Tensor) -> None:
        with torch.no_grad():
            parts = torch.split(w, [p.numel() for p in self.leaves])
            for leaf, part in zip(self.leaves, parts, strict=True):
                leaf.copy_(part.reshape(leaf.shape))


@dataclass(frozen=True)
class Derivative:
    """Columns of a derivative by differences over two steps.

    ``jump`` is the largest relative jump of a slope: it is small where the function is smooth. ``error`` is
    the relative difference of the columns over the two steps, of which the extrapolation keeps a small part.
    """

    columns: Tensor
    jump: float
    error: float


def derivative(f: Callable[[Tensor], Tensor], at: Tensor, directions: Tensor, size: int) -> Derivative:
    """Extrapolated central differences of ``f`` along directions, and whether one-sided slopes agree.

    The one-sided slopes of a smooth function differ by its curvature times the step, so that the difference
    halves with the step; at a kink it stays.

    Args:
        f: Function of a flat vector.
        at: Point of the derivative.
        directions: Directions, one per row.
        size: Number of first entries of ``f`` whose slopes are compared from both sides as one group; the
            others are the second group.
    """
    centre, long, short, bends = f(at), [], [], []
    for direction in directions:
        (wide, far), (narrow, near) = (slopes(f, at, centre, h * direction, h) for h in (STEP, STEP / 2))
        long.append(wide)
        short.append(narrow)
        bends.append(far - 2 * near)
    coarse, fine, bend = (torch.stack(parts, dim=1) for parts in (long, short, bends))
    matrix = (4 * fine - coarse) / 3
    jumps, errors = [], []
    for group in (slice(size), slice(size, None)):
        if matrix[group].numel():
            jumps.append(float(bend[group].abs().max() / matrix[group].abs().max().clamp(min=1e-7)))
            errors.append(
                float((fine - coarse)[group].abs().max() / matrix[group].abs().max().clamp(min=1e-7))
            )
    return Derivative(matrix, max(jumps), max(errors))


def slopes(
    f: Callable[[Tensor], Tensor], at: Tensor, centre: Tensor, step: Tensor, length: float
) -> tuple[Tensor, Tensor]:
    """The central difference quotient over a step, and the difference of the one-sided ones."""
    up, down = f(at + step), f(at - step)
    return (up - down) / (2 * length), (up + down - 2 * centre) / length


@dataclass(frozen=True)
class Truth:
    """What the linearised problem is: ``H v = -b`` and ``J v = -j``, and whether it is known well.

    ``H`` is that of the weights of model and loss together, ``weights`` the number of the model's. ``B`` and
    ``Jx`` are the derivatives in all features of the moved points, where they were asked for.
    """

    H: Tensor
    b: Tensor
    J: Tensor
    j: Tensor
    gradient: Tensor
    weights: int
    is_smooth: bool
    error: float
    B: Tensor | None = None
    Jx: Tensor | None = None

    @property
    def is_symmetric(self) -> bool:
        return float((self.H - self.H.T).norm()) <= 1e-6 * float(self.H.norm())


def truth(training: Training, points: list[int], dx: Tensor, *, has_columns: bool = False) -> Truth:
    """The truth of a trained point in float64, for a move of some points.

    Args:
        training: Training in float64, at the weights that the library is asked about.
        points: Indices of the points that move.
        dx: Move of these points.
        has_columns: Whether the derivatives in each single feature are computed too.
    """
    differences = Differences(training)
    w, x, size = differences.start, training.inputs, len(differences.start)
    full = torch.zeros_like(x)
    full[points] = dx
    length = float(full.norm())
    by_weights = derivative(lambda v: differences.at(v, x), w, torch.eye(size, dtype=w.dtype), size)
    by_inputs = derivative(
        lambda t: differences.at(w, x + t * full / length), torch.zeros(1), torch.ones(1, 1), size
    )
    at_start = differences.at(w, x)
    along, columns = length * by_inputs.columns[:, 0], None
    if has_columns:
        entries = dx.numel()

        def moved(t: Tensor) -> Tensor:
            place = torch.zeros_like(x)
            place[points] = t.reshape(dx.shape)
            return differences.at(w, x + place)

        columns = derivative(moved, torch.zeros(entries), torch.eye(entries), size).columns
    differences.reset()
    return Truth(
        H=by_weights.columns[:size],
        b=along[:size],
        J=by_weights.columns[size:],
        j=along[size:],
        gradient=at_start[:size],
        weights=sum(p.numel() for p in training.moving),
        is_smooth=max(by_weights.jump, by_inputs.jump) < 1e-2,
        error=max(by_weights.error, by_inputs.error)
        / 10,  # what the extrapolation leaves of it, on the safe side
        B=None if columns is None else columns[:size],
        Jx=None if columns is None else columns[size:],
    )


@dataclass(frozen=True)
class Smallest:
    """The minimum-norm solution of ``A v = -c`` by a pseudo-inverse, and how well it is defined.

    ``gap`` is whether no singular value lies between the kernel and what is safely not: only then the
    element and the rank are known.
    """

    value: Tensor
    rank: int
    gap: bool
    condition: float
    is_consistent: bool


def smallest(A: Tensor, c: Tensor, noise: float) -> Smallest:
    """The minimum-norm least-squares solution of ``A v = -c``.

    Args:
        A: Matrix from central differences.
        c: Right-hand side.
        noise: Relative size of singular values that are not told from zero.
    """
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    top = float(s.max()) if s.numel() else 0.0
    if top == 0.0:
        return Smallest(torch.zeros(A.shape[1], dtype=A.dtype), 0, True, 1.0, float(c.norm()) <= 1e-9)
    cut = s > noise * top
    rank = int(cut.sum())
    gap = not bool(((s > noise * top) & (s < 1e3 * noise * top)).any())
    value = -(Vh[:rank].T / s[:rank]) @ (U[:, :rank].T @ c)
    miss = float((A @ value + c).norm())
    is_consistent = miss <= 1e-4 * float(c.norm()) + FLOOR * top
    return Smallest(value, rank, gap, top / float(s[rank - 1]), is_consistent)


def norm_of_map(A: Tensor, C: Tensor, noise: float) -> float | None:
    """``‖A⁺C‖``, infinite where columns of ``C`` leave the range of ``A``, ``None`` where it is not known.

    Args:
        A: Matrix from central differences.
        C: Right-hand sides, one per feature.
        noise: Relative size of singular values that are not told from zero.
    """
    U, s, _ = torch.linalg.svd(A, full_matrices=False)
    cut = s > noise * s.max()
    if bool((cut & (s < 1e3 * noise * s.max())).any()):
        return None
    inside = U[:, cut].T @ C
    outside = float((C - U[:, cut] @ inside).norm()) / max(float(C.norm()), 1e-300)
    if outside > 1e-4:
        return float("inf") if outside > 1e-2 else None
    return float(torch.linalg.matrix_norm(inside / s[cut, None], 2))
