"""What the library says about a combination, held against the truth."""

import re
import warnings
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from solset import Move, Problem, SolsetWarning, SolverError, lipschitz_modulus
from solset.errors import Status
from solset.modulus import Certainty, LipschitzModulus

from .combinations import LOSSES, Combination, Training, drawn_from, in_dtype, untrained
from .losses import Declared
from .minimum import train
from .oracle import EXACT, Smallest, Truth, norm_of_map, smallest, truth

MOVED = [1, 5]
MODULUS_OF = 4  # each fourth combination is asked for its modulus too
NAMED = re.compile(r"^`[\w.*\[\]\"' ]+` must be ")  # how a refusal of the library begins
NOISE = {torch.float64: EXACT, torch.float32: 1e-6}
ACCURACY = {
    torch.float64: 1e-9,
    torch.float32: 2e-6,
}  # of H, relative: times the condition, that of an answer


class Outcome(StrEnum):
    """How a combination ended; the last two are not outcomes of the library."""

    RIGHT = "right"
    FLAGGED = "flagged"
    REFUSED = "refused"
    SILENT = "SILENT WRONG"
    CRASH = "RAW CRASH"
    UNDECIDED = "undecided"
    UNTRAINED = "untrained"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one combination.

    ``is_needless`` marks a refusal, or a warning at a right number, where the truth is smooth and well posed.
    """

    combination: Combination
    outcome: Outcome
    detail: str = ""
    is_needless: bool = False

    def __str__(self) -> str:
        return f"{self.outcome}: {self.combination}: {self.detail}"


@dataclass(frozen=True, eq=False)
class Answer:
    """What the library said: a change of the weights and the dimension of the set, and what it warned of.

    ``rounding`` is how exactly the new weights can be told from the old ones in their dtype.
    """

    change: Tensor
    rounding: float
    dimension: int | None
    optimality: str
    flags: tuple[str, ...]
    modulus: LipschitzModulus | None = None


def judge(combination: Combination) -> Verdict:
    """The outcome of one combination: it is trained, answered by the library and by central differences.

    Args:
        combination: Combination to try.
    """
    training, is_trained = prepared(combination)
    if not is_trained and LOSSES[combination.loss].is_smooth:
        return Verdict(combination, Outcome.UNTRAINED)
    with drawn_from(combination.seed + 1, torch.float64):
        dx = 1e-2 * torch.randn(len(MOVED), *training.inputs.shape[1:])
        same = in_dtype(combination, training, torch.float64)  # at weights that the dtype holds
        has_modulus = combination.seed % MODULUS_OF == 0
        known = truth(same, MOVED, dx.to(combination.dtype).double(), has_columns=has_modulus)
    is_fair = combination.is_smooth and known.is_smooth and is_trained
    declared = LOSSES[combination.loss].declared
    try:
        try:
            answer = ask(training, dx.to(combination.dtype), has_modulus=has_modulus)
        except (TypeError, ValueError) as error:
            if declared is None or declared.cure not in str(error):
                raise
            answer = ask_declared(training, declared, dx.to(combination.dtype), has_modulus=has_modulus)
    except (TypeError, ValueError) as error:
        if NAMED.match(str(error)):
            return Verdict(combination, Outcome.REFUSED, str(error), is_fair)
        return Verdict(combination, Outcome.CRASH, f"{type(error).__name__}: {error}")
    except SolverError as error:
        return Verdict(combination, Outcome.FLAGGED, str(error))
    except Exception as error:  # a raw crash is what is counted here
        return Verdict(combination, Outcome.CRASH, f"{type(error).__name__}: {error}")
    wrong = mistake(combination, known, answer) if is_trained else "the weights are not stationary"
    if answer.flags:
        return Verdict(combination, Outcome.FLAGGED, "; ".join(answer.flags), is_fair and wrong == "")
    if wrong is None:
        return Verdict(combination, Outcome.UNDECIDED)
    return Verdict(combination, Outcome.SILENT if wrong else Outcome.RIGHT, wrong)


def prepared(combination: Combination) -> tuple[Training, bool]:
    """The trained model in the dtype of the combination, and whether its training reached its end.

    Args:
        combination: Combination to train.
    """
    with drawn_from(combination.seed, torch.float64):
        training = untrained(combination)
        if combination.training == "stationary":
            is_trained = train(training)
            return in_dtype(combination, training, combination.dtype), is_trained
        training = in_dtype(combination, training, combination.dtype)
        fitted = LOSSES[combination.loss].fitted
        assert fitted is not None
        targets = fitted(training.model(training.inputs).detach())
    return Training(training.model, training.loss, training.inputs, targets, 0.0), True


def ask(
    training: Training,
    dx: Tensor,
    points: list[int] = MOVED,
    optimality: str = "auto",
    *,
    has_modulus: bool = False,
    **options,
) -> Answer:
    """The estimate of the library for a move of some points.

    Args:
        training: Trained model with its loss and data.
        dx: Move of these points.
        points: Indices of the points that move.
        optimality: Name of the optimality map.
        has_modulus: Whether the modulus of these points is asked for too.
        options: Options of the problem; the weight decay is that of the training by default.
    """
    options = {"weight_decay": training.weight_decay, **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        problem = Problem(training.model, training.loss, training.inputs, training.targets, **options)
        estimate = problem.estimate(Move(points, dx), optimality=optimality)
        solution = estimate.min_norm()
        try:
            dimension = estimate.dimension
        except ValueError:
            dimension = None
        used = problem.derivative(points=points, optimality=optimality).optimality
    modulus = None
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        if has_modulus:
            modulus = lipschitz_modulus(problem, points=points)
    if any(issubclass(w.category, SolsetWarning) for w in doubts):
        modulus = None  # flagged
    flags = [str(w.message) for w in caught if issubclass(w.category, SolsetWarning)]
    if solution.status is not Status.CONVERGED:
        flags.append(f"status {solution.status}")
    change = (solution.value - problem.weights()).double()
    rounding = torch.finfo(solution.value.dtype).eps * float(problem.weights().norm())
    return Answer(change, rounding, dimension, str(used), tuple(dict.fromkeys(flags)), modulus)


def ask_declared(training: Training, declared: Declared, dx: Tensor, *, has_modulus: bool) -> Answer:
    """The estimate for a loss in the form that its refusal asks for.

    Args:
        training: Trained model with its loss and data.
        declared: Form that is asked for.
        dx: Move of the points.
        has_modulus: Whether the modulus is asked for too.
    """
    model, loss, options = declared.form(training.model, training.loss)
    moved = replace(training, model=model.eval(), loss=loss)
    if isinstance(training.loss, nn.Module) and training.learned:  # which do not decay
        options = {"weight_decay": {"loss.*": 0.0, "*": training.weight_decay}, **options}
    return ask(moved, dx, has_modulus=has_modulus, **options)


def mistake(combination: Combination, known: Truth, answer: Answer) -> str | None:
    """What is wrong with an answer: nothing (``""``), a description, or ``None`` where it cannot be told.

    Args:
        combination: Combination that was asked about.
        known: Truth by central differences.
        answer: What the library said.
    """
    if not known.is_smooth:
        return "the point lies on a kink"
    noise = NOISE[combination.dtype]
    has_learned = len(known.b) > known.weights
    is_kept = answer.optimality == "interpolating"
    A, c = (known.J[:, : known.weights], known.j) if is_kept else (known.H, known.b)
    right = smallest(A, c, noise)
    if is_kept and right.gap and right.rank < len(A):
        return f"the rows are called independent; their rank is {right.rank} of {len(A)}"
    if not bool(torch.isfinite(answer.change).all()):
        return "the change is not finite"
    if not right.is_consistent:
        return "the set is empty" if right.gap else None
    accuracy = (ACCURACY[combination.dtype] + known.error) * (right.condition + 10)
    is_squared = combination.training == "fitted" and not is_kept  # H is then J's square, and hides its ends
    if not right.gap or accuracy > 0.1 or (is_squared and has_small(known.J)):
        return by_residual(A, c, answer)
    return by_element(right, known.weights, answer, accuracy, has_learned) or by_modulus(
        known, answer, noise, accuracy
    )


def has_small(J: Tensor) -> bool:
    """Whether singular values of ``J`` are small, and yet no zeros: their squares are not told from zeros."""
    s = torch.linalg.svdvals(J)
    return bool(((s > 1e-9 * s.max()) & (s < 1e-3 * s.max())).any())


def by_residual(A: Tensor, c: Tensor, answer: Answer) -> str | None:
    """Whether the change solves the system, where the element itself is not known well enough."""
    if len(answer.change) != A.shape[1]:
        return None
    residual = float((A @ answer.change + c).norm())
    return "" if residual <= 1e-3 * float(c.norm()) + 1e-9 else None


def by_element(right: Smallest, weights: int, answer: Answer, accuracy: float, has_learned: bool) -> str:
    """Whether the change and the dimension are those of the oracle."""
    expected = right.value[:weights]
    if len(answer.change) == len(right.value):
        expected = right.value
    if len(answer.change) != len(expected):
        return f"{len(answer.change)} weights for {len(expected)}"
    off = max(float((answer.change - expected).norm()) - 2 * answer.rounding - 1e-11, 0.0)
    error = off / (float(expected.norm()) + 1e-5)
    if error > accuracy:
        return f"relative error {error:.2g} (accuracy {accuracy:.1g}), length {float(expected.norm()):.2g}"
    dimension = len(right.value) - right.rank
    if answer.dimension is not None and answer.dimension != dimension and not has_learned:
        return f"dimension {answer.dimension} for {dimension}"
    return ""


def by_modulus(known: Truth, answer: Answer, noise: float, accuracy: float) -> str:
    """Whether the modulus is what its certificate says, if it was asked for."""
    if answer.modulus is None or known.B is None or len(known.b) > known.weights:
        return ""
    is_kept = answer.modulus.optimality == "interpolating"
    right = norm_of_map(*((known.J, known.Jx) if is_kept else (known.H, known.B)), noise)
    said, value = answer.modulus.certificate.certainty, answer.modulus.value
    if right is None or said is Certainty.UNKNOWN:
        return ""
    if said is Certainty.NO_CONSTRAINT:
        return "" if right <= 1e-6 else f"no constraint is said, the modulus is {right:.3g}"
    is_equal = value == right or abs(value - right) <= 10 * accuracy * right + 1e-6
    return "" if is_equal else f"modulus {value:.6g} ({said}) for {right:.6g}"
