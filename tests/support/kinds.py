"""Every kind of change of two small problems, one with weight decay and one that fits its data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import solset
from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight
from solset.changes import Change

F64, COUNT, DECAY = torch.float64, 7, 0.4


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A network whose inputs are a tensor, a tree of them, or the ids of two words."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.words = form, nn.Embedding(5, 2)
        self.layers = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2))
        self.to(F64)
        for seed, part in enumerate(self.layers.parameters()):
            part.data = 0.6 * drawn(30 + seed, *part.shape)
        self.words.weight.data = drawn(40, 5, 2)

    def forward(self, table: Tensor | None = None, ids: Tensor | None = None, scale: Tensor | None = None):
        if ids is not None:
            return self.layers(self.words(ids).flatten(1))
        assert table is not None
        return self.layers(table if scale is None else table * scale)


IDS = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2], [3, 4], [0, 2], [1, 3], [2, 4], [4, 1]])  # two join
FORMS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "tree": {"moves": "table"},
    "embedding": {"moves": solset.embedding_of("ids")},
}


@dataclass(frozen=True)
class Case:
    """A problem beside its features and targets written out; two points more may join."""

    problem: Problem
    form: str
    x: Tensor
    y: Tensor
    decay: float

    def inputs(self, points: slice) -> Any:
        if self.form == "tensor":
            return self.x[points]
        if self.form == "tree":
            return {"table": self.x[points], "scale": torch.ones(len(self.x[points]), 1, dtype=F64)}
        return {"ids": IDS[points]}

    def changes(self) -> Mapping[str, Change]:
        dx = 0.1 * drawn(50, 2, 4).reshape(2, *self.problem.input_shape)
        kinds: dict[str, Change] = {
            "move": Move([1, 4], dx),
            "relabel": Relabel([0, 5], self.y[[0, 5]] + 0.1 * drawn(51, 2, 2)),
            "reweight": Reweight([2, 6], [0.5, -0.3]),
            "remove": Remove([3]),
            "add": Add(self.inputs(slice(COUNT, None)), self.y[COUNT:]),
        }
        kinds["sum"] = kinds["move"] + kinds["relabel"] + kinds["remove"] + kinds["add"]
        return kinds | ({"decay": Decay(0.05)} if self.decay else {})


def case(form: str, *, fits: bool) -> Case:
    """A problem of seven points; of a tensor, a tree of tensors or an embedding that moves."""
    model = Net(form)
    x = model.words(IDS).flatten(1).detach() if form == "embedding" else drawn(52, COUNT + 2, 4)
    outputs = model.layers(x).detach()
    y = (
        outputs + torch.cat([torch.zeros(COUNT, 2), 0.1 * torch.ones(2, 2)])
        if fits
        else outputs + 0.2 * drawn(53, COUNT + 2, 2)
    )
    decay = 0.0 if fits else DECAY
    made = Case(None, form, x, y, decay)  # type: ignore[arg-type] - its inputs are asked for first
    problem = Problem(
        model,
        nn.MSELoss(),
        made.inputs(slice(COUNT)),
        y[:COUNT],
        parameters=["layers.*"],
        weight_decay=decay,
        gradient_tol=float("inf"),
        **FORMS[form],
    )
    return Case(problem, form, x, y, decay)


class Written:
    """The risk on the way of a change, and the outputs, written out."""

    def __init__(self, case: Case, kind: str) -> None:
        self.case, self.change, self.kind = case, case.changes()[kind], kind
        self.parts = getattr(self.change, "parts", (self.change,))
        self.dx, self.dy = torch.zeros_like(case.x), torch.zeros_like(case.y)
        self.before = torch.cat([torch.ones(COUNT), torch.zeros(2)]).to(F64)
        self.step, self.decay = torch.zeros(COUNT + 2, dtype=F64), 0.0
        for part in self.parts:
            if isinstance(part, Move):
                self.dx[part.points] = part.dx.flatten(1)
            if isinstance(part, Relabel):
                self.dy[part.points] = part.targets - case.y[part.points]
            if isinstance(part, Reweight):
                self.step[part.points] = torch.tensor(part.factors, dtype=F64)
            if isinstance(part, Remove):
                self.step[part.points] = -1.0
            if isinstance(part, Add):
                self.step[COUNT:] = 1.0
            if isinstance(part, Decay):
                self.decay = part.change

    def outputs(self, weights: Tensor, share: Tensor) -> Tensor:
        layers = self.case.problem.risk().model.layers
        shapes = {name: part.shape for name, part in layers.named_parameters()}
        parts = weights.split([shape.numel() for shape in shapes.values()])
        named = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return functional_call(layers, named, (self.case.x + share * self.dx,))

    def risk(self, weights: Tensor, share: Tensor) -> Tensor:
        losses = (self.outputs(weights, share) - self.case.y - share * self.dy).square().mean(dim=1)
        factors = self.before + share * self.step
        decay = self.case.decay + share * self.decay
        return factors @ losses / factors.sum() + decay / 2 * weights @ weights

    def matrix(self, optimality: str, share: float) -> Tensor:
        weights, at = self.case.problem.weights(), torch.tensor(share, dtype=F64)
        if optimality == "stationary":
            return jacrev(jacrev(self.risk))(weights, at)
        rows = jacrev(self.outputs)(weights, at)
        factors = self.before + share * self.step
        curved = torch.einsum("n,ncp,ncq->pq", factors / factors.sum(), rows, rows)  # of a mean over outputs
        return curved + (self.case.decay + share * self.decay) * torch.eye(len(weights), dtype=F64)

    def first(self, optimality: str) -> Tensor:
        """The change of the weights to first order."""
        weights, zero = self.case.problem.weights(), torch.tensor(0.0, dtype=F64)
        pull = jacrev(jacrev(self.risk), argnums=1)(weights, zero)
        return -torch.linalg.solve(self.matrix(optimality, 0.0), pull)

    def newton(self, optimality: str) -> Tensor:
        """The change of the weights by a Newton step."""
        weights, ends = self.case.problem.weights(), torch.tensor([0.0, 1.0], dtype=F64)
        before, after = (jacrev(self.risk)(weights, end) for end in ends)
        return -torch.linalg.solve(self.matrix(optimality, 1.0), after - before)

    def fitted(self) -> Tensor:
        """The shortest change of the weights that answers for the points that are there after the change."""
        weights, zero = self.case.problem.weights(), torch.tensor(0.0, dtype=F64)
        rows = jacrev(self.outputs)(weights, zero)
        answer = -jacrev(self.outputs, argnums=1)(weights, zero) + self.dy
        answer = answer + (self.case.y - self.outputs(weights, zero)) * (self.before == 0).unsqueeze(1)
        counts = self.before + self.step > 0
        return torch.linalg.pinv(rows[counts].flatten(0, 1)) @ answer[counts].flatten()


def everything() -> dict[str, Tensor]:
    """The answer to every kind of change, on every map, by a solver of each."""
    from solset.solvers import CG, Dual

    answers: dict[str, Tensor] = {}
    routes: dict[str, Callable[[Case, Change], Any]] = {
        "stationary": lambda c, change: c.problem.estimate(
            change, optimality="stationary", solver=CG(tol=1e-13)
        ),
        "gauss_newton": lambda c, change: c.problem.estimate(
            change, optimality="gauss_newton", solver=Dual()
        ),
        "interpolating": lambda c, change: c.problem.estimate(
            change, optimality="interpolating", solver=Dual()
        ),
    }
    for fits in (False, True):
        made = case("tensor", fits=fits)
        for kind, change in made.changes().items():
            for name, route in routes.items():
                if (name == "interpolating") == fits:
                    answers[f"{name} {kind}"] = route(made, change).min_norm().change
    return answers
