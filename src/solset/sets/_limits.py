"""Painlevé–Kuratowski limits, as far as finitely many sets can show them (Definition 2)."""

from collections.abc import Sequence

from torch import Tensor

from solset.errors import bad_value
from solset.sets._convex import ClosedSet


def in_outer_limit(point: Tensor, sets: Sequence[ClosedSet], *, tail: int, tol: float) -> bool:
    """Whether ``w`` looks like a point of the outer limit ``{w : liminf_k d(w, C_k) = 0}``.

    Definition 2; Rockafellar & Wets, section 4.A. What is tested is ``min d(w, C_k) ≤ tol`` over the last
    ``tail`` sets.

    Args:
        point: ``w``, ``(p,)``.
        sets: ``C_1, C_2, …``, in order.
        tail: How many of the last sets stand for "infinitely many k".
        tol: Absolute distance that stands for 0.

    Raises:
        ValueError: If the tail is empty or longer than the sequence, or ``tol`` is negative.

    Notes:
        No finite sequence proves a limit: the answer is about these sets, this tail and this tolerance.

    Example:
        >>> import torch
        >>> from solset.sets import PointCloud
        >>> jumping = [PointCloud(torch.tensor([[float((-1) ** k)]])) for k in range(10)]
        >>> one = torch.ones(1)
        >>> in_outer_limit(one, jumping, tail=4, tol=1e-9), in_inner_limit(one, jumping, tail=4, tol=1e-9)
        (True, False)
    """
    return min(_tail_distances(point, sets, tail, tol)) <= tol


def in_inner_limit(point: Tensor, sets: Sequence[ClosedSet], *, tail: int, tol: float) -> bool:
    """Whether ``w`` looks like a point of the inner limit ``{w : limsup_k d(w, C_k) = 0}``.

    As :func:`in_outer_limit`, with ``max d(w, C_k) ≤ tol`` over the tail: nothing in the inner limit is
    missing from the outer one.

    Args:
        point: ``w``, ``(p,)``.
        sets: ``C_1, C_2, …``, in order.
        tail: How many of the last sets stand for "all k large enough".
        tol: Absolute distance that stands for 0.

    Raises:
        ValueError: If the tail is empty or longer than the sequence, or ``tol`` is negative.
    """
    return max(_tail_distances(point, sets, tail, tol)) <= tol


def _tail_distances(point: Tensor, sets: Sequence[ClosedSet], tail: int, tol: float) -> list[float]:
    if not 1 <= tail <= len(sets):
        raise bad_value(
            "tail",
            expected=f"between 1 and the {len(sets)} sets given",
            got=tail,
            cure="Count the sets that are to stand for the limit.",
        )
    if not tol >= 0:
        raise bad_value("tol", expected="not negative", got=tol, cure="Use the distance that counts as zero.")
    return [closed.distance(point) for closed in sets[-tail:]]
