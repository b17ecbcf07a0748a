"""What a Lipschitz modulus is returned with: the number, what it rests on, and where it is attained."""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor


class Certainty(StrEnum):
    """What is known of a modulus."""

    EXACT = "exact"
    INFINITE = "proven infinite"
    CONSTANT_RANK = "exact under constant rank"
    NO_CONSTRAINT = "no constraint"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Carrier:
    """One training output that takes part in a combination which the weights cannot move.

    Attributes:
        point: Its training point.
        output: Which of its outputs; for the maps of the gradient ``None``.
        share: Of the combinations' squared length, in (0, 1].
    """

    point: int
    output: int | None
    share: float


@dataclass(frozen=True)
class Certificate:
    """What a modulus rests on.

    Attributes:
        certainty: ``exact``, ``proven infinite``, ``exact under constant rank`` (probed at nearby points),
            ``no constraint`` or ``not known``.
        reason: In one sentence.
        criterion_holds: Mordukhovich's criterion ``D*S(x̄|w̄)(0) = {0}`` for the formula set; ``None`` where
            no kernel was seen.
        rows: Of the constraint in use.
        rank: Of ``J`` or ``H``; ``None`` where no spectrum was seen.
        joint_rank: Of ``[J, J_x]`` or ``[H, B]``.
        lower: A ratio ``‖J_xᵀu‖ / ‖Jᵀu‖`` (or ``‖Bᵀu‖ / ‖Hu‖``) that was measured by two products: never
            above the modulus, up to rounding.
        upper: An upper bound where the value is exact; infinite where nothing is known. Where only products
            were used: of ``‖A⁺C‖`` as solved, with probability 0.999 (Lanczos' method); rows that are nearly
            dependent beyond what the solves resolve are not seen by it.
        residual: ``‖J v + J_x Δx‖ / ‖J_x Δx‖`` of the weight direction ``v`` at the worst direction.
        activation_margin: First-order estimate of the distance to the nearest ReLU kink, in the joint norm of
            input and weights, over the pre-activations looked at; infinite where there is no kink.
        carriers: Which outputs make it infinite, by falling share; empty otherwise.
        multiplier: The unit ``u`` with ``Jᵀu = 0`` and ``J_xᵀu ≠ 0``, ``(n, c)``, or ``(p,)`` for ``H``.
    """

    certainty: Certainty
    reason: str
    criterion_holds: bool | None
    rows: int
    rank: int | None
    joint_rank: int | None
    lower: float
    upper: float
    residual: float
    activation_margin: float
    carriers: tuple[Carrier, ...] = ()
    multiplier: Tensor | None = None


@dataclass(frozen=True)
class LipschitzModulus:
    """``lip S(x̄|w̄)``: how far the solution set moves per unit of data perturbation, at most.

    Attributes:
        value: In weight units per input unit; infinite or 0 where the mathematics says so. It is the modulus
            only as far as ``certificate.certainty`` says.
        certificate: What it rests on.
        worst_direction: The unit data direction that attains it, ``(|K|, *input)``; in the infinite case one
            that no change of the weights answers; ``None`` where there is no constraint.
        weight_direction: The change of the weights that it causes, ``(p,)``, zero for weights that are held;
            ``None`` where there is none.
        points: ``K``, whose features move.
        layer: Patterns of the weights that may move; ``None`` for all.
        is_joint: Whether the outputs of all points are constraints, or those of ``K`` alone.
        optimality: The optimality map.
        reason: Why this map.
    """

    value: float
    certificate: Certificate
    worst_direction: Tensor | None
    weight_direction: Tensor | None
    points: tuple[int, ...]
    layer: tuple[str, ...] | None
    is_joint: bool
    optimality: str
    reason: str

    def __str__(self) -> str:
        """The number and what is known of it, in one line."""
        found = f"{self.value:.6g} ({self.certificate.certainty}: {self.certificate.reason})"
        if self.certificate.carriers:
            named = ", ".join(str(i) for i in dict.fromkeys(c.point for c in self.certificate.carriers))
            found += f"; carried by points {named}"
        return found
