"""A loss with trainable weights of its own: refused with a cure, and both cures give the right numbers."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import Move, Problem, Relabel, Remove, WholeBatch
from solset.goals import HeldOutLoss, Margin, ModelFunction
from solset.operators import GaussNewton, Hessian, Mixed

N = 16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = draw(N, 3), draw(N, 2, seed=1)


class TaskWeights(nn.Module):
    """Learned task weights ``Σ_t exp(-s_t) e_t + s_t`` (Kendall et al. 2018, equation 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((-self.s).exp() * (outputs - targets).square() + self.s).mean()


class Beside(nn.Module):
    """The cure: the model holds the loss's weights and returns them beside its outputs."""

    def __init__(self, body: nn.Module, loss: TaskWeights) -> None:
        super().__init__()
        self.body, self.s = body, nn.Parameter(loss.s.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), self.s.expand(len(x), -1)


def with_weights_beside(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    predicted, s = outputs
    return ((-s).exp() * (predicted - targets).square() + s).mean()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2).double().eval()


def test_weights_of_the_loss_are_named_with_two_cures():
    with pytest.raises(ValueError, match=r'that require grad \(s\).*parameters=\["\*", "loss\.\*"\]'):
        Problem(network(), TaskWeights(), X, Y, gradient_tol=float("inf"))


def test_a_loss_that_holds_the_model_is_told_of_the_penalty():
    class Ridge(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().mean() + self.model.weight.square().sum()

    model = network()
    with pytest.raises(ValueError, match="any other as penalty="):
        Problem(model, Ridge(model), X, Y, gradient_tol=float("inf"))


def test_frozen_weights_of_the_loss_are_held():
    loss = TaskWeights()
    loss.s.requires_grad_(False)
    held = Problem(network(), loss, X, Y, gradient_tol=float("inf"))
    assert held.risk().value() == pytest.approx(float(loss(network()(X), Y).detach()), rel=1e-12)


def test_weights_returned_beside_the_outputs_move_too():
    """Against autograd on the loss with its own parameters."""
    body, loss = network(), TaskWeights()
    problem = Problem(
        Beside(body, loss).eval(),
        with_weights_beside,
        X,
        Y,
        weight_decay={"body.*": 0.1, "s": 0.0},
        gradient_tol=9e9,
    )
    risk, inputs = problem.risk(), X.clone().requires_grad_()
    names, parts = list(risk.layout.shapes), risk.leaves()
    named = dict(zip(names, parts, strict=True))
    predicted = inputs @ named["body.weight"].T + named["body.bias"]
    value = torch.func.functional_call(loss, {"s": named["s"]}, (predicted, Y))
    value = value + 0.05 * (named["body.weight"].square().sum() + named["body.bias"].square().sum())
    assert risk.value() == pytest.approx(float(value.detach()), rel=1e-12)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parts, create_graph=True)])
    torch.testing.assert_close(risk.gradient(), gradient.detach())
    rows = [
        torch.autograd.grad(g, [*parts, inputs], retain_graph=True, materialize_grads=True) for g in gradient
    ]
    dense = torch.stack([torch.cat([part.reshape(-1) for part in row[:-1]]) for row in rows])
    torch.testing.assert_close(Hessian(risk).to_dense(), dense, rtol=1e-9, atol=1e-11)
    mixed = torch.stack([row[-1].reshape(-1) for row in rows])[:, 6:9]
    torch.testing.assert_close(Mixed(risk, [2]).to_dense(), mixed, rtol=1e-9, atol=1e-11)
    assert bool((torch.linalg.eigvalsh(GaussNewton(risk).to_dense()) > -1e-12).all())
    change = problem.estimate(Move([2], 0.01 * draw(1, 3, seed=2)), optimality="stationary").min_norm()
    assert set(change.as_parameters()) == {"body.weight", "body.bias", "s"}


class Temperature(nn.Module):
    """A scalar that scales logits, with class weights beside it."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.weight, self.reduction = weight, reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs * self.scale, targets, self.weight, reduction=self.reduction)


class Centres(nn.Module):
    """Center loss (Wen et al. 2016, equation 5) with a classifier inside of the loss."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.head = nn.Linear(2, 3).double()
        self.centres = nn.Parameter(draw(3, 2, seed=5))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        distances = (outputs - self.centres[targets]).square().sum(dim=1)
        return functional.cross_entropy(self.head(outputs), targets) + 0.1 * distances.mean()


class Pairs(nn.Module):
    """A contrastive loss with a learned temperature, as of CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        scores = outputs @ outputs.T * self.scale.exp()
        return functional.cross_entropy(scores - 0.5 * scores.diagonal(), targets)


CLASSES = torch.arange(N) % 3
CASES = {
    "task weights": (TaskWeights(), Y),
    "temperature": (Temperature(), CLASSES % 2),
    "a sum": (Temperature(reduction="sum"), CLASSES % 2),
    "class weights": (Temperature(torch.tensor([1.0, 5.0], dtype=torch.float64)), CLASSES % 2),
    "class vectors": (Centres(), CLASSES),
    "all outputs at once": (WholeBatch(Pairs()), CLASSES),
}


@pytest.mark.parametrize("batch_size", [5, 256])
@pytest.mark.parametrize("name", CASES)
def test_weights_of_the_loss_move_where_they_are_named(name, batch_size):
    loss, targets = CASES[name]
    model, module = network(), cast("nn.Module", loss.loss if isinstance(loss, WholeBatch) else loss)
    problem = Problem(
        model,
        loss,
        X,
        targets,
        parameters=["*", "loss.*"],
        weight_decay={"loss.*": 0.02, "*": 0.1},
        gradient_tol=9e9,
        batch_size=batch_size,
    )
    risk, layout = problem.risk(), problem.risk().layout

    def value(w: Tensor, x: Tensor) -> Tensor:
        parts = dict(zip(layout.shapes, layout.split(w), strict=True))
        of_loss = {k.removeprefix("loss."): part for k, part in parts.items() if k.startswith("loss.")}
        of_model = {k: part for k, part in parts.items() if not k.startswith("loss.")}
        outputs = torch.func.functional_call(model, of_model, (x,))
        total = torch.func.functional_call(module, of_loss, (outputs, targets))
        return total + 0.5 * (risk.weight_decay * w) @ w

    w, gradient = risk.weights, torch.func.grad(value)
    hessian = torch.func.jacrev(gradient)(w, X)
    mixed = torch.func.jacrev(gradient, argnums=1)(w, X)[:, [7, 2]].flatten(1)
    assert risk.value() == pytest.approx(float(value(w, X)), rel=1e-12)
    torch.testing.assert_close(problem.gradient(), gradient(w, X), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(Hessian(risk).to_dense(), hessian, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(Mixed(risk, [7, 2]).to_dense(), mixed, rtol=1e-10, atol=1e-11)
    dx = 0.01 * draw(2, 3, seed=3)
    solution = problem.estimate(Move([7, 2], dx), optimality="stationary").min_norm()
    expected = -torch.linalg.solve(hessian, mixed @ dx.flatten())
    torch.testing.assert_close(solution.weights - w, expected, rtol=1e-8, atol=1e-11)
    parts = solution.as_parameters()
    assert torch.equal(solution.apply_to(model).weight, parts["weight"])
    for key, part in solution.apply_to(module).named_parameters():
        assert torch.equal(part, parts[f"loss.{key}"])


def test_a_removal_and_a_goal_see_the_weights_of_the_loss():
    loss, targets = CASES["temperature"]
    options: dict[str, Any] = {"parameters": ["*", "loss.*"], "weight_decay": 0.1, "gradient_tol": 9e9}
    problem = Problem(network(), loss, X, targets, **options)
    risk, start = problem.risk(), problem.weights()
    change = problem.estimate(Remove([3]), order="first").min_norm().weights - start
    rest = [i for i in range(N) if i != 3]
    without = Problem(
        network(),
        loss,
        X[rest],
        targets[rest],
        parameters=["*", "loss.*"],
        weight_decay=0.1,
        gradient_tol=9e9,
    )
    pull = (N - 1) / N * (without.gradient() - problem.gradient())  # the first order in the factor
    torch.testing.assert_close(Hessian(risk).to_dense() @ change, -pull, rtol=1e-7, atol=1e-9)
    other = targets.clone()
    other[5] = 1 - other[5]
    relabelled = Problem(network(), loss, X, other, **options)
    change = problem.estimate(Relabel([5], other[5:6]), order="first").min_norm().weights - start
    pull = relabelled.gradient() - problem.gradient()
    torch.testing.assert_close(Hessian(risk).to_dense() @ change, -pull, rtol=1e-7, atol=1e-9)
    held_out = HeldOutLoss(X[:4], targets[:4])
    expected = float(loss(network()(X[:4]), targets[:4]).detach())
    assert float(held_out.quantity(risk, start).detach()) == pytest.approx(expected, rel=1e-12)
    first = ModelFunction(lambda model: model(X[:1])[0, 0])
    assert float(first.quantity(risk, start).detach()) == pytest.approx(
        float(network()(X[:1])[0, 0].detach())
    )
    with pytest.raises(ValueError, match="one tensor of logits"):
        Margin(X[:4], targets[:4]).check(risk)


def test_what_cannot_move_together_is_refused():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.loss(x)

    with pytest.raises(ValueError, match="without a part named 'loss'"):
        Problem(Named().eval(), TaskWeights(), X, Y, parameters=["*"], gradient_tol=9e9)
    with pytest.raises(ValueError, match="`target_moves` must be left out"):
        Problem(nn.Linear(3, 3).double(), Temperature(), X, X, parameters=["*"], target_moves=True)
