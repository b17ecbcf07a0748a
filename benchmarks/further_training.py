"""Further training without a point: what it does to test outputs, and how well each method foresees it.

The protocol is that of FiMODA (Wei et al. 2025, section 5): a network of 8-128-128-1 units on UCI Energy
Efficiency, trained by SGD; then further trainings from its weights, with all points and without one of 100.
The truth is the mean over seeds of the difference of the outputs at 77 test points, and the score the cosine
of predicted and true differences, averaged over the points left out. The noise of the truth bounds it: with
``r`` the cosine between the means over either half of the seeds, a perfect prediction of the expectation has
a cosine of about ``(2 r / (1 + r))^½`` with the mean over all (Spearman 1910, Brown 1910).

Methods at the trained weights know the length of the further training at most. Two rows say what else
there is to know. Gradient descent on all points, as many steps, has no order of batches. Its tangent is
the gradient flow with a new linearisation at every step; where it is really run without the point, all of
the change is in it but the order. The tangent of a recorded run knows its batches too: it is compared with
what these runs did, and with the mean over all seeds.
"""

import copy
import warnings
from functools import partial

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tests.support.reference import shared_folder
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from benchmarks.tables import table
from solset import Problem, Remove, Training, filters
from solset.goals import Prediction
from solset.operators import PointGradients
from solset.solvers import CG, LiSSA
from solset.training import Run

DATA = shared_folder() / "data" / "energy.npz"
RATE, BATCH, EPOCHS = 0.03, 128, 1000
POINTS = 20  # left out, one at a time
DAMPING = 0.01
PUBLISHED = "Wei et al. 2025, 100 seeds: best 0.705 after 1 epoch (Grad-Dot), 0.378 after 500 (LiSSA)"


def run(*, small: bool, large: bool, seeds: int) -> dict[str, object]:
    """Prints the cosines after several epochs of further training."""
    if not DATA.exists():
        print(f"{DATA} is missing: UCI Energy Efficiency (Tsanas & Xifara 2012), `inputs` and `targets`")
        return {}
    epochs = [1, 5, 20] + ([] if small else [50, 100]) + ([500] if large else [])
    x, y, x_test = _energy()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    _train(model, x, y)
    left_out = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:POINTS]
    followed = min(1 if small else 2, seeds)  # runs whose tangents are taken
    parts = [
        _truth(model, x, y, x_test, left_out, epochs, range(first, stop))
        for first, stop in ((0, followed), (followed, seeds), (1000, 1000 + seeds))
    ]
    share = followed / seeds
    halves = [{e: share * parts[0][e] + (1 - share) * parts[1][e] for e in epochs}, parts[2]]
    truth = {epoch: (halves[0][epoch] + halves[1][epoch]) / 2 for epoch in epochs}
    rows = _predictions(model, x, y, x_test, left_out, epochs, krylov=not small)
    if not small:
        each_step = {e: _tangents(model, x, y, x_test, left_out, e, 1, len(x)) for e in epochs}
        rows["gradient descent, relinearised at each step"] = each_step
        really = _truth(model, x, y, x_test, left_out, epochs, range(1), len(x))
        rows["gradient descent, really run without the point"] = really
    scores = {name: {e: _cosine(each[e], truth[e]) for e in epochs} for name, each in rows.items()}
    tangents = {e: _tangents(model, x, y, x_test, left_out, e, followed) for e in epochs}
    runs = f"tangent of {followed} run{'s' if followed > 1 else ''}"
    scores[runs] = {e: _cosine(tangents[e], truth[e]) for e in epochs}
    scores[f"{runs}, against what they did"] = {e: _cosine(tangents[e], parts[0][e]) for e in epochs}
    between = {e: _cosine(halves[0][e], halves[1][e]) for e in epochs}
    scores["half of the seeds against the other"] = between
    scores["ceiling"] = {e: (2 * max(r, 0.0) / (1 + r)) ** 0.5 for e, r in between.items()}
    print(f"{len(left_out)} points left out, {2 * seeds} seeds, {len(x_test)} test outputs: mean cosine")
    lines = [[name, *(f"{value:.3f}" for value in each.values())] for name, each in scores.items()]
    print(table(["method", *(f"{e} epochs" if e > 1 else "1 epoch" for e in epochs)], lines))
    print(f"\nPublished: {PUBLISHED}")
    return {"seeds": 2 * seeds, "points": len(left_out), "published": PUBLISHED, **scores}


def _energy() -> tuple[Tensor, Tensor, Tensor]:
    """Standardised training inputs and heating loads, and test inputs."""
    data = np.load(DATA)
    inputs, loads = data["inputs"], data["targets"][:, :1]
    x, x_test, y, _ = train_test_split(inputs, loads, test_size=0.1, random_state=0)
    scale = StandardScaler().fit(x)
    y = StandardScaler().fit_transform(y)
    parts = (np.asarray(part, dtype=np.float32) for part in (scale.transform(x), y, scale.transform(x_test)))
    first, second, third = map(torch.from_numpy, parts)
    return first, second, third


def _train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer, generator = torch.optim.SGD(model.parameters(), lr=RATE), torch.Generator().manual_seed(2)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            (model(x[batch]) - y[batch]).square().mean().backward()
            optimizer.step()
    model.eval()


def _truth(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    left_out: Tensor,
    epochs: list[int],
    seeds: range,
    batch_size: int = BATCH,
) -> dict[int, Tensor]:
    """Mean over seeds of the change of the test outputs without each point, ``(points, tests)``, by epoch."""
    totals = {epoch: torch.zeros(len(left_out), len(x_test)) for epoch in epochs}
    steps = -(-len(x) // BATCH)
    for seed in seeds:
        stacks = [
            part.detach().expand(len(left_out) + 1, *part.shape).clone().requires_grad_()
            for part in model.parameters()
        ]
        run = _run(model, x, y, max(epochs), seed, batch_size)
        batches = [torch.tensor(batch) for batch in run.batches]
        for epoch in range(1, max(epochs) + 1):
            for batch in batches[(epoch - 1) * steps : epoch * steps]:
                counts = torch.cat(
                    [batch != left_out.unsqueeze(1), torch.ones(1, len(batch), dtype=torch.bool)]
                )
                errors = (_outputs(stacks, x[batch]) - y[batch].squeeze(1)).square() * counts
                slopes = torch.autograd.grad((errors.sum(1) / counts.sum(1)).sum(), stacks)
                with torch.no_grad():
                    for part, slope in zip(stacks, slopes, strict=True):
                        part -= RATE * slope
            if epoch in totals:
                with torch.no_grad():
                    outputs = _outputs(stacks, x_test)
                totals[epoch] += (outputs[:-1] - outputs[-1]) / len(seeds)
    return totals


def _run(model: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int, batch_size: int) -> Run:
    """A further training with all points, of as many steps at any size of its batches."""
    optimizer = partial(torch.optim.SGD, lr=RATE)
    passes = epochs * -(-len(x) // BATCH) // -(-len(x) // batch_size)
    options = {"optimizer": optimizer, "epochs": passes, "batch_size": batch_size, "seed": seed}
    return Training(lambda: copy.deepcopy(model), nn.MSELoss(), x, y, **options).run()


def _tangents(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    left_out: Tensor,
    epochs: int,
    count: int,
    batch_size: int = BATCH,
) -> Tensor:
    """The changes of the test outputs by tangents of runs, the mean over their seeds, ``(points, tests)``."""
    total = torch.zeros(len(left_out), len(x_test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # outputs on a kink are a fact of these networks
        for seed in range(count):
            run = _run(model, x, y, epochs, seed, batch_size)
            before = run.model(x_test).detach().flatten()
            for place, point in enumerate(left_out.tolist()):
                there = run.estimate(Remove([point]), verify=False).apply_to(run.model)
                total[place] += (there(x_test).detach().flatten() - before) / count
    return total


def _outputs(stacks: list[Tensor], inputs: Tensor) -> Tensor:
    """The outputs of many networks of three layers at once, ``(networks, points)``."""
    hidden = inputs.expand(len(stacks[0]), *inputs.shape)
    for place in range(0, 6, 2):
        hidden = torch.baddbmm(stacks[place + 1].unsqueeze(1), hidden, stacks[place].mT)
        hidden = hidden.relu() if place < 4 else hidden
    return hidden.squeeze(2)


def _predictions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    left_out: Tensor,
    epochs: list[int],
    *,
    krylov: bool,
) -> dict[str, dict[int, Tensor]]:
    """The predicted changes by each method, ``(points, tests)``, by epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights of an SGD are not stationary: that is what is studied
        double = copy.deepcopy(model).double()
        problem = Problem(double, nn.MSELoss(), x.double(), y.double(), gradient_tol=float("inf"))
        goal = Prediction(x_test.double())

        def effects(**options: object) -> Tensor:
            worth = problem.attribute(goal, features=False, **options)  # type: ignore[arg-type]
            return -torch.as_tensor(worth.weights)[:, left_out].T.float()

        steps = -(-len(x) // BATCH)
        flow = {
            epoch: effects(element=filters.GradientFlow(epoch * steps, RATE), optimality="gauss_newton")
            for epoch in epochs
        }
        gradients = goal.slopes(problem.risk(), problem.weights()).gradients
        points = PointGradients(problem.risk(), problem.risk().select(left_out.tolist()))
        always = {
            "Grad-Dot": (points.T @ gradients).float(),
            "Gauss-Newton influence, damped": effects(
                element=filters.Tikhonov(DAMPING), optimality="gauss_newton"
            ),
        }
        solvers = {
            "CG": CG(damping=DAMPING, max_steps=100, tol=1e-3),
            "LiSSA": LiSSA(damping=DAMPING, max_steps=200),
        }
        for name, solver in solvers.items() if krylov else ():
            always[f"influence by {name}, damped"] = effects(solver=solver, optimality="stationary")
    same = {name: dict.fromkeys(epochs, value) for name, value in always.items()}
    return {"gradient flow of that length": flow, **same}


def _cosine(predicted: Tensor, real: Tensor) -> float:
    return float(cosine_similarity(predicted, real, dim=1).mean())
