"""Losses whose points count unequally: the risk and its derivatives are those of the user's own loss."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import Move, Problem, Remove, audit, retrain
from solset.goals import HeldOutLoss
from solset.operators import GaussNewton, Hessian, Mixed
from solset.retraining import Newton
from solset.risk import identity

N, D, C = 12, 3, 3
Loss = Callable[[Tensor, Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = draw(N, D)
LABELS = torch.tensor([0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0])
IGNORED = torch.tensor([0, -100, -100, 1, 2, 0, -100, 0, 1, 1, -100, 2])
REAL = draw(N, C, seed=1)
CLASS_WEIGHTS = torch.tensor([1.0, 20.0, 3.0], dtype=torch.float64)
MASK = (torch.arange(N * C).reshape(N, C) % 3 != 0).double()
MASK[[2, 7]] = 0.0
MASKED = torch.stack([REAL, MASK], dim=1)
SEQUENCES = torch.tensor([[0, 1, -100], [1, -100, -100], [-100] * 3, [0, 0, 1]] * 3)


def pixels(outputs: Tensor) -> Tensor:
    """Three outputs as two classes at three places."""
    return torch.stack([outputs, outputs.cos()], dim=1)


def masked_mse(outputs: Tensor, targets: Tensor) -> Tensor:
    values, mask = targets.unbind(1)
    return (mask * (outputs - values).square()).sum() / mask.sum()


def slightly_masked(outputs: Tensor, targets: Tensor) -> Tensor:
    values, mask = targets.unbind(1)
    return (mask * (outputs - values).square()).sum() / (mask.sum() + 1e-8)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """The focal loss over the number of positives, as detectors have it (Lin et al. 2017, section 4)."""
    p, positive = torch.sigmoid(outputs), functional.one_hot(targets, C)
    loss = positive * (1 - p) ** 2 * -p.log() + (1 - positive) * p**2 * -(1 - p).log()
    return loss.sum() / (targets == 1).sum().clamp(min=1)


def sampled(outputs: Tensor, targets: Tensor) -> Tensor:
    """Weights of samples in the first column of the targets."""
    weights = targets[:, 0].exp()
    return (weights * (outputs - targets).square().sum(1)).sum() / weights.sum()


def looping(outputs: Tensor, targets: Tensor) -> Tensor:
    """Control flow that ``torch.vmap`` refuses."""
    losses = [
        functional.cross_entropy(o[None], t[None])
        for o, t in zip(outputs, targets, strict=True)
        if int(t) >= 0
    ]
    return torch.stack(losses).mean() if losses else outputs.sum() * float("nan")


UNEQUAL: dict[str, tuple[Loss, Tensor]] = {
    "class weights": (nn.CrossEntropyLoss(CLASS_WEIGHTS), LABELS),
    "class weights, functional": (lambda o, t: functional.cross_entropy(o, t, weight=CLASS_WEIGHTS), LABELS),
    "smoothed": (nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.1), LABELS),
    "negative log-likelihood": (lambda o, t: nn.NLLLoss(CLASS_WEIGHTS)(o.log_softmax(1), t), LABELS),
    "ignored": (nn.CrossEntropyLoss(), IGNORED),
    "ignored and weighted": (nn.CrossEntropyLoss(CLASS_WEIGHTS), IGNORED),
    "padded": (lambda o, t: functional.cross_entropy(pixels(o), t), SEQUENCES),
    "masked": (masked_mse, MASKED),
    "slightly masked": (slightly_masked, MASKED),
    "normalised by positives": (focal, (torch.arange(N) % 5 == 1).long()),
    "weights in the targets": (sampled, REAL),
    "without vmap": (looping, IGNORED),
}
EQUAL: dict[str, tuple[Loss, Tensor]] = {
    "sum": (nn.CrossEntropyLoss(CLASS_WEIGHTS, reduction="sum"), LABELS),
    "positive weight": (nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS), (REAL > 0).double()),
    "batchmean": (lambda o, t: nn.KLDivLoss(reduction="batchmean")(o.log_softmax(1), t.softmax(1)), REAL),
    "gaussian": (lambda o, t: nn.GaussianNLLLoss()(o[:, :1], t[:, :1], o[:, 1:2].exp()), REAL),
    "quantile": (lambda o, t: torch.maximum(0.9 * (t - o), 0.1 * (o - t)).mean(), REAL),
    "huber": (nn.HuberLoss(), REAL),
    "smooth": (nn.SmoothL1Loss(), REAL),
    "poisson": (nn.PoissonNLLLoss(), REAL.abs()),
    "half of a sum": (lambda o, t: 0.5 * (o - t).square().sum(), REAL),
}
CASES = {**UNEQUAL, **EQUAL}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, 2), nn.Tanh(), nn.Linear(2, C)).double().eval()


def problem(name: str, **options) -> Problem:
    loss, targets = CASES[name]
    options = {"gradient_tol": float("inf"), "batch_size": 5, "weight_decay": 0.1, **options}
    return Problem(network(), loss, X, targets, **options)


def truth(name: str, flat: Tensor, inputs: Tensor) -> Tensor:
    """The user's own loss of all points at once, with decay."""
    (loss, targets), model, parts, rest = CASES[name], network(), {}, flat
    for key, value in model.named_parameters():
        parts[key], rest = rest[: value.numel()].view(value.shape), rest[value.numel() :]
    return loss(torch.func.functional_call(model, parts, (inputs,)), targets) + 0.05 * flat @ flat


@pytest.mark.parametrize("name", CASES)
def test_risk_gradient_hessian_and_mixed_derivative_are_those_of_the_loss(name):
    risk = problem(name).risk()
    leaf, inputs = risk.weights.clone().requires_grad_(), X.clone().requires_grad_()
    value = truth(name, leaf, inputs)
    assert risk.value() == pytest.approx(float(value.detach()), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    torch.testing.assert_close(risk.gradient(), gradient.detach(), rtol=1e-10, atol=1e-12)
    rows = [torch.autograd.grad(g, (leaf, inputs), retain_graph=True) for g in gradient]
    dense = torch.stack([row[0] for row in rows])
    torch.testing.assert_close(Hessian(risk).to_dense(), dense, rtol=1e-9, atol=1e-11)
    mixed = torch.stack([row[1][[9, 4, 1]].reshape(-1) for row in rows])
    torch.testing.assert_close(Mixed(risk, [9, 4, 1]).to_dense(), mixed, rtol=1e-9, atol=1e-11)
    total = risk.losses().mean() if risk.reduction == "mean" else risk.losses().sum()
    assert float(total) == pytest.approx(
        float(value.detach()) - 0.05 * float(risk.weights @ risk.weights), rel=1e-12
    )


@pytest.mark.parametrize("name", ["class weights", "ignored", "masked", "weights in the targets"])
def test_the_gauss_newton_matrix_weighs_its_rows(name):
    """Of a network linear in its weights it is the Hessian."""
    loss, targets = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(D, C).double().eval()
    risk = Problem(model, loss, X, targets, gradient_tol=float("inf"), batch_size=5).risk()
    torch.testing.assert_close(GaussNewton(risk).to_dense(), Hessian(risk).to_dense(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["class weights", "ignored"])
def test_moved_points_and_retraining(name):
    loss, targets = CASES[name]
    model = nn.Linear(D, C).double().eval()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    start = Problem(model, loss, X, targets, weight_decay=0.1, gradient_tol=float("inf"))
    still, dx = Move(None, torch.zeros(N, D).double()), 1e-4 * draw(2, D, seed=2)
    trained = start.moved_to(still, retrain(start, still, method=Newton(gradient_tol=1e-13)).weights)
    ends = [
        retrain(trained, Move([9, 3], sign * dx), method=Newton(gradient_tol=1e-13)).change
        for sign in (1, -1)
    ]
    change = trained.estimate(Move([9, 3], dx)).min_norm().value - trained.weights()
    torch.testing.assert_close(change, (ends[0] - ends[1]) / 2, rtol=1e-6, atol=1e-12)
    moved = X.clone()
    moved[[9, 3]] += dx
    flat = (trained.weights() + ends[0]).requires_grad_()
    value = loss(moved @ flat[: D * C].view(C, D).T + flat[D * C :], targets) + 0.05 * flat @ flat
    assert float(torch.autograd.grad(value, flat)[0].norm()) < 1e-12


def test_an_ignored_point_moves_nothing():
    ignoring = problem("ignored")
    assert float(Mixed(ignoring.risk(), [1]).to_dense().abs().max()) == 0.0
    moved = ignoring.estimate(Remove([1])).min_norm().value - ignoring.weights()
    assert float(moved.norm()) == 0.0
    result = audit(ignoring, points=[1, 0], optimality="stationary")
    assert result.modulus is not None
    assert float(result.modulus[0]) == 0.0 < float(result.modulus[1])
    assert float(result.loss[0]) == 0.0


@pytest.mark.parametrize("name", ["class weights", "ignored", "weights in the targets", "sum"])
def test_a_removed_point_leaves_the_loss_of_the_others(name):
    """The mean over fewer points is divided by their own weights, as the user's loss divides."""
    loss, targets = CASES[name]
    model = nn.Linear(D, C).double().eval()
    start = Problem(model, loss, X, targets, weight_decay=0.1, gradient_tol=float("inf"))
    rest = [i for i in range(N) if i != 4]
    without = Problem(model, loss, X[rest], targets[rest], weight_decay=0.1, gradient_tol=float("inf"))
    torch.testing.assert_close(Remove([4]).applied_to(start.risk()).gradient(), without.gradient())
    assert Remove([4]).applied_to(start.risk()).value() == pytest.approx(without.risk().value(), rel=1e-12)

    def at(factor: float) -> Tensor:  # of point 4
        weights = torch.ones(N, dtype=torch.float64)
        weights[4] = factor
        of_point = Problem(
            model, loss, X, targets, weight_decay=0.1, sample_weights=weights, gradient_tol=float("inf")
        )
        return of_point.gradient()

    derivative = Remove([4]).of_gradient(start.risk(), 2**30).to_dense()[:, 0]
    torch.testing.assert_close(derivative, (at(1 + 1e-5) - at(1 - 1e-5)) / 2e-5, rtol=1e-6, atol=1e-9)


def test_a_divisor_that_is_not_known_of_fewer_points_is_refused():
    with pytest.raises(ValueError, match="got one whose divisor is no sum over the points"):
        problem("normalised by positives").estimate(Remove([4]))


class TestWeightsOfSamples:
    S = torch.tensor([1.0, 0.0, 3.0] * 4, dtype=torch.float64)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_a_weight_is_that_many_copies(self, reduction):
        model, loss = nn.Linear(D, C).double().eval(), nn.CrossEntropyLoss(reduction=reduction)
        options = {"weight_decay": 0.1, "gradient_tol": float("inf")}
        by_weight = Problem(model, loss, X, LABELS, sample_weights=self.S, **options).risk()
        copies = torch.arange(N).repeat_interleave(self.S.long())
        by_copies = Problem(model, loss, X[copies], LABELS[copies], **options).risk()
        assert by_weight.value() == pytest.approx(by_copies.value(), rel=1e-13)
        torch.testing.assert_close(by_weight.gradient(), by_copies.gradient())
        torch.testing.assert_close(Hessian(by_weight).to_dense(), Hessian(by_copies).to_dense())
        torch.testing.assert_close(GaussNewton(by_weight).to_dense(), GaussNewton(by_copies).to_dense())

    def test_beside_class_weights(self):
        model, loss = nn.Linear(D, C).double().eval(), nn.CrossEntropyLoss(CLASS_WEIGHTS)
        both = Problem(model, loss, X, LABELS, sample_weights=self.S, gradient_tol=float("inf")).risk()
        each = functional.cross_entropy(model(X), LABELS, reduction="none")
        weights = CLASS_WEIGHTS[LABELS] * self.S
        assert both.value() == pytest.approx(float((weights @ each / weights.sum()).detach()), rel=1e-12)

    @pytest.mark.parametrize(
        "bad", [torch.ones(N - 1), -torch.ones(N), torch.zeros(N), torch.full((N,), torch.inf)]
    )
    def test_other_weights_are_refused(self, bad):
        with pytest.raises(ValueError, match="`sample_weights` must be"):
            Problem(network(), nn.CrossEntropyLoss(), X, LABELS, sample_weights=bad)


def test_held_out_points_have_the_loss_of_the_user():
    held_out = draw(4, D, seed=5), torch.tensor([1, 0, 2, 1])
    weighted, (loss, _) = problem("class weights"), CASES["class weights"]
    goal = HeldOutLoss(*held_out)
    goal.check(weighted.risk())
    value = goal.quantity(weighted.risk(), weighted.weights())
    torch.testing.assert_close(value, loss(network()(held_out[0]), held_out[1]))
    found = audit(weighted, points=[0], validation=held_out, optimality="stationary")
    assert found.validation_change is not None


def test_the_identity_knows_the_weights():
    marks = [identity(problem(name).risk()) for name in ("class weights", "sum", "ignored")]
    others = nn.CrossEntropyLoss(CLASS_WEIGHTS.flip(0))
    marks.append(
        identity(
            Problem(network(), others, X, LABELS, weight_decay=0.1, batch_size=5, gradient_tol=9e9).risk()
        )
    )
    assert len({str(mark) for mark in marks}) == 4


def test_a_float32_problem_has_exact_weights():
    loss = nn.CrossEntropyLoss(CLASS_WEIGHTS.float())
    model = nn.Linear(D, C).eval()
    risk = Problem(model, loss, X.float(), LABELS, gradient_tol=float("inf")).risk()
    factors = risk.points[range(N)][1][:, -1]
    wanted = N * CLASS_WEIGHTS[LABELS] / CLASS_WEIGHTS[LABELS].sum()
    torch.testing.assert_close(factors, wanted, rtol=1e-5, atol=0)


def centred(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs - outputs.mean(0), targets)


def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    p = outputs.softmax(1)[:, 0]
    return 1 - 2 * (p * (targets == 0)).sum() / (p.sum() + (targets == 0).sum())


def detached(outputs: Tensor, targets: Tensor) -> Tensor:
    """Weights that the outputs decide, held by ``detach``: nothing that a batch's values can show."""
    each = functional.cross_entropy(outputs, targets, reduction="none")
    weights = each.detach()
    return (weights * each).sum() / weights.sum()


@pytest.mark.parametrize("loss", [centred, dice, detached])
def test_functions_of_all_outputs_are_refused(loss):
    targets = REAL if loss is centred else LABELS
    with pytest.raises(ValueError, match="`loss` must be a mean or a sum over points, on every point"):
        Problem(network(), loss, X, targets, gradient_tol=float("inf"))


@pytest.mark.parametrize(
    ("loss", "cure"),
    [
        (nn.CrossEntropyLoss(reduction="none"), 'Use reduction="mean" or "sum"'),
        (lambda o, t: (functional.cross_entropy(o, t), o), "Return the one number that training minimised"),
        (lambda o, t: {"loss": functional.cross_entropy(o, t)}, "Return the one number"),
    ],
)
def test_what_is_no_number_is_refused(loss, cure):
    with pytest.raises(TypeError, match=f"`loss` must be a scalar tensor.*{cure}"):
        Problem(network(), loss, X, LABELS, gradient_tol=float("inf"))


def test_connectionist_temporal_classification():
    """A mean over points of losses over lengths of targets, as PyTorch has it."""
    lengths = torch.tensor([2, 1, 2, 2])
    targets = torch.cat([torch.tensor([[1, 2], [2, 0], [1, 1], [2, 1]]), lengths[:, None]], dim=1)

    def loss(outputs: Tensor, given: Tensor) -> Tensor:
        steps = outputs.reshape(len(outputs), 6, 3).log_softmax(2).transpose(0, 1)
        return functional.ctc_loss(steps, given[:, :2], torch.full((len(given),), 6), given[:, 2])

    model = nn.Linear(D, 18).double().eval()
    risk = Problem(model, loss, X[:4], targets, gradient_tol=float("inf"), batch_size=3).risk()
    assert risk.value() == pytest.approx(float(loss(model(X[:4]), targets).detach()), rel=1e-12)
