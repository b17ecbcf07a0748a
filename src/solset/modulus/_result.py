"""The Lipschitz modulus as it is returned: the number, what is known of it, and where it is attained."""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from solset.results import Result, computed

NAMED = 5  # points that a headline names


class Certainty(StrEnum):
    """How far a modulus was verified."""

    EXACT = "exact"
    INFINITE = "proven infinite"
    CONSTANT_RANK = "exact under constant rank"
    NO_CONSTRAINT = "no constraint"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Carrier:
    """One training output that takes part in a combination which the weights cannot move.

    Attributes:
        point: Index of the training point.
        output: Index of the output of that point.
        share: Share of the output in the combinations' squared length, in (0, 1].
    """

    point: int
    output: int | None
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Result):
    """What is known of a modulus, and the numbers that show it.

    Attributes:
        certainty: One of ``exact``, ``proven infinite``, ``exact under constant rank`` (probed at nearby
            points), ``no constraint`` and ``not known``.
        reason: Sentence that says why this is known and no more.
        criterion_holds: Whether Mordukhovich's criterion ``D*S(x̄|w̄)(0) = {0}`` holds for the formula set;
            ``None`` where no kernel was seen.
        rows: Number of rows of the constraint in use.
        rank: Numerical rank of ``J`` or ``H``; ``None`` where no spectrum was seen.
        joint_rank: Numerical rank of ``[J, J_x]`` or ``[H, B]``; ``None`` where no spectrum was seen.
        lower: Ratio ``‖J_xᵀu‖ / ‖Jᵀu‖`` (or ``‖Bᵀu‖ / ‖Hu‖``) that was measured by two products: never
            above the modulus, up to rounding.
        upper: Upper bound where the value is exact; infinite where nothing is known. Where only products
            were used, a bound of ``‖A⁺C‖`` as solved, with probability 0.999 (Lanczos' method); rows that are
            nearly dependent beyond what the solves resolve do not enter it.
        residual: Relative residual ``‖J v + J_x Δx‖ / ‖J_x Δx‖`` of the weight direction ``v`` at the worst
            direction.
        activation_margin: First-order estimate of the distance to the nearest ReLU kink, in the joint norm of
            input and weights, over the pre-activations looked at; infinite where there is no kink.
        carriers: Training outputs that make the modulus infinite, by falling share; empty otherwise.
        multiplier: Unit ``u`` with ``Jᵀu = 0`` and ``J_xᵀu ≠ 0``, ``(n, c)``, or ``(p,)`` for ``H``; ``None``
            where the modulus is not proven infinite.
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

    @property
    def headline(self) -> str:
        """The certainty with its reason."""
        return f"{self.certainty}: {self.reason}"

    @computed
    def message(self) -> str:
        """The reason."""
        return self.reason


@dataclass(frozen=True, eq=False, repr=False)
class LipschitzModulus(Result):
    """``lip S(x̄|w̄)``: the largest distance that the solution set moves per unit of a change of the data.

    Attributes:
        value: Modulus in weight units per unit of the change: of an input, of a target, of a relative factor,
            of the weight decay; infinite or 0 where the mathematics says so. It is the
            modulus only as far as ``certificate.certainty`` says.
        certificate: Certainty of the value, with the numbers that show it.
        worst_direction: Unit direction that attains the value, in the shape of the change's coordinates,
            such as ``(|K|, *input)`` for features; in the infinite case
            one that no change of the weights answers; ``None`` where there is no constraint.
        weight_direction: Change of the weights that the worst direction causes, ``(p,)``, zero for weights
            that are held; ``None`` where there is none.
        kind: Name of the kind of change, such as ``"Move"``.
        points: Indices ``K`` of the points that change.
        layer: Name patterns of the weights that may move; ``None`` for all.
        is_joint: Whether the outputs of all points are constraints, or those of ``K`` alone.
        optimality: Name of the optimality map.
        reason: Sentence that says why this map was taken.
    """

    value: float
    certificate: Certificate
    worst_direction: Tensor | None
    weight_direction: Tensor | None
    kind: str
    points: tuple[int, ...]
    layer: tuple[str, ...] | None
    is_joint: bool
    optimality: str
    reason: str

    @property
    def headline(self) -> str:
        """The value and its certainty, such as ``"0.4, exact"`` or ``"infinite: points 3 and 7 ..."``."""
        certainty = self.certificate.certainty
        if certainty is not Certainty.INFINITE:
            return f"{self.value:.6g}, {certainty}"
        names = list(dict.fromkeys(carrier.point for carrier in self.certificate.carriers))
        who = f"{listed(names)} cannot all be answered" if names else "no change of the weights answers"
        return f"infinite, proven: {who}"

    @computed
    def message(self) -> str:
        """The reason of the certificate."""
        return self.certificate.reason


def listed(points: list[int]) -> str:
    """Points by name, such as ``"points 3 and 7"``; the first few of many."""
    names = [str(point) for point in points[:NAMED]]
    if len(points) > NAMED:
        return f"points {', '.join(names)} and {len(points) - NAMED} more"
    if len(names) == 1:
        return f"point {names[0]}"
    return f"points {', '.join(names[:-1])} and {names[-1]}"
