"""Data and models as people have them: right against autograd, or refused by name, or a warning."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from solset import Move, Problem, SolsetWarning, WholeBatch

N, D, C = 10, 3, 2
OPTIONS: dict[str, Any] = {"weight_decay": 0.1, "gradient_tol": 9e9}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, DX = draw(N, D), torch.arange(N) % C, 0.01 * draw(1, D, seed=1)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C)).double().eval()


class Around(nn.Module):
    """The network inside of another forward method."""

    def __init__(self, forward: Callable[..., Any], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.network, self._forward = network().to(dtype), forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self.network, x)


def truth(model: nn.Module, risk: Callable[[Tensor], Tensor], x: Tensor, dx: Tensor) -> Tensor:
    """The change ``-H⁻¹ B dx`` of the weights by dense autograd; ``dx`` has the shape of all inputs."""
    leaves, leaf = list(model.parameters()), x.clone().requires_grad_()
    value = risk(leaf) + 0.05 * sum(weights.square().sum() for weights in leaves)
    slopes = torch.autograd.grad(value, leaves, create_graph=True)
    gradient = torch.cat([slope.reshape(-1) for slope in slopes])
    rows = [
        torch.autograd.grad(g, [*leaves, leaf], retain_graph=True, allow_unused=True, materialize_grads=True)
        for g in gradient
    ]
    hessian = torch.stack([torch.cat([part.reshape(-1) for part in row[:-1]]) for row in rows])
    return -torch.linalg.solve(hessian, torch.stack([(row[-1] * dx).sum() for row in rows]))


def change(problem: Problem, dx: Tensor = DX, point: int = 1) -> Tensor:
    solution = problem.estimate(Move([point], dx), optimality="stationary").min_norm()
    return solution.weights - problem.weights()


def moved() -> Tensor:
    dx = torch.zeros_like(X)
    dx[1] = DX
    return dx


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


def named_output(net: nn.Module, x: Tensor) -> Named:
    logits = net(x)
    return Named(logits, 2 * logits)


PAIRS = TensorDataset(X, Y)
TAKEN = {
    "a frame and a series": (network, (pd.DataFrame(X.numpy()), pd.Series(Y.numpy())), {}),
    "a tensor dataset": (network, (PAIRS,), {}),
    "a subset": (network, (Subset(TensorDataset(X.repeat(2, 1), Y.repeat(2)), range(N, 2 * N)),), {}),
    "datasets in a row": (
        network,
        (ConcatDataset([Subset(PAIRS, range(4)), Subset(PAIRS, range(4, N))]),),
        {},
    ),
    "a list of dicts": (
        lambda: Around(lambda net, x: net(x)),
        ([{"x": X[i], "labels": int(Y[i])} for i in range(N)],),
        {},
    ),
    "a loader": (network, (DataLoader(PAIRS, batch_size=3),), {}),
    "one-hot targets": (network, (X, functional.one_hot(Y, C).double()), {}),
    "a named tuple": (lambda: Around(named_output), (X, Y), {"outputs": "logits"}),
    "a dict with what is no tensor": (
        lambda: Around(lambda net, x: {"loss": None, "logits": net(x), "hidden": (x, x)}),
        (X, Y),
        {"outputs": "logits"},
    ),
    "inputs out of order in memory": (network, (X.T.contiguous().T, Y), {}),
    "inputs that require grad": (network, (X.clone().requires_grad_(), Y), {}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_data_in_every_form_give_the_numbers_of_autograd(name):
    build, data, options = TAKEN[name]
    problem, plain = Problem(build(), nn.CrossEntropyLoss(), *data, **options, **OPTIONS), network()
    expected = truth(plain, lambda x: functional.cross_entropy(plain(x), Y), X, moved())
    torch.testing.assert_close(change(problem), expected, rtol=1e-9, atol=1e-13)


def test_several_tasks_in_dicts_and_a_mask_in_the_targets():
    model, values, mask = network(), draw(N, 1, seed=2), torch.arange(N) < 7
    tasks = Around(lambda net, x: {"class": net(x), "value": net(x)[:, :1].tanh()})

    def loss(outputs: Any, targets: Any) -> Tensor:
        errors = (outputs["value"] - targets["value"]).square().squeeze(1) * targets["mask"]
        return functional.cross_entropy(outputs["class"], targets["class"]) + errors.mean()

    targets = {"class": Y, "value": values, "mask": mask}
    problem = Problem(tasks.eval(), loss, X, targets, **OPTIONS)
    outputs = lambda x: {"class": model(x), "value": model(x)[:, :1].tanh()}  # noqa: E731
    expected = truth(model, lambda x: loss(outputs(x), targets), X, moved())
    torch.testing.assert_close(change(problem), expected, rtol=1e-9, atol=1e-13)


def test_packed_sequences_of_different_lengths():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, C)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.cell(packed)[1][-1])

    torch.manual_seed(0)
    model, lengths = Reader().double().eval(), torch.arange(N) % 4 + 1
    x = draw(N, 4, 2) * (torch.arange(4) < lengths[:, None])[..., None]
    dx = torch.zeros_like(x)
    dx[1, :2] = 0.01
    problem = Problem(model, nn.CrossEntropyLoss(), {"x": x, "lengths": lengths}, Y, **OPTIONS)
    expected = truth(model, lambda x: functional.cross_entropy(model(x, lengths), Y), x, dx)
    torch.testing.assert_close(change(problem, dx[1:2]), expected, rtol=1e-8, atol=1e-12)


class Convolution(nn.Module):
    """Two graph convolutions (Kipf & Welling 2017, equation 9) with a held adjacency."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(D, 3).double(), nn.Linear(3, C).double()
            ring = torch.eye(nodes, dtype=torch.float64) + torch.eye(nodes, dtype=torch.float64).roll(1, 0)
        self.register_buffer("adjacency", (ring + ring.T) / 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed = lambda h: torch.einsum("ij,...jd->...id", self.adjacency, h)  # noqa: E731
        return self.second(mixed(self.first(mixed(x)).tanh()))


def classes_of_nodes(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-100)


def test_nodes_of_one_graph_are_refused_as_points_with_the_cure():
    with pytest.raises(ValueError, match=r"treat every point by itself.*as one point.*ignore_index"):
        Problem(Convolution(N).eval(), nn.CrossEntropyLoss(), X, Y, **OPTIONS)


def test_one_graph_is_one_point_whose_left_out_nodes_are_masked():
    model, labels = Convolution(N).eval(), Y.where(torch.arange(N) % 3 > 0, -100)
    problem = Problem(model, classes_of_nodes, X.unsqueeze(0), labels.unsqueeze(0), **OPTIONS)
    dx = moved()  # node 1 is labelled; its neighbours feel it too
    dx[3] = 2 * DX  # node 3 is left out of the loss, but not out of the graph
    expected = truth(model, lambda x: classes_of_nodes(model(x).unsqueeze(0), labels), X, dx)
    torch.testing.assert_close(change(problem, dx.unsqueeze(0), 0), expected, rtol=1e-9, atol=1e-13)


def autocast(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(x).float()


@pytest.mark.parametrize(
    "forward", [autocast, lambda net, x: net(x).bfloat16().float(), lambda net, x: net(x.half().float())]
)
def test_half_precision_inside_of_the_model_is_refused(forward):
    with pytest.raises(
        ValueError, match="`model` must be computed in float32 or float64; got half precision"
    ):
        Problem(Around(forward, torch.float32).eval(), nn.CrossEntropyLoss(), X.float(), Y, **OPTIONS)


@pytest.mark.parametrize("wrap", [lambda loss: loss, WholeBatch])
def test_half_precision_inside_of_the_loss_is_refused(wrap):
    loss = wrap(lambda outputs, targets: functional.cross_entropy(outputs.bfloat16().float(), targets))
    with pytest.raises(ValueError, match="`loss` must be computed in float32 or float64"):
        Problem(network().float(), loss, X.float(), Y, **OPTIONS)


def test_outputs_that_are_a_view_of_weights_are_taken():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(draw(C, seed=3))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), -1)

    problem = Problem(Constant().eval(), nn.CrossEntropyLoss(), X, Y, **OPTIONS)
    assert not change(problem).any()


class Short(Dataset):
    def __len__(self) -> int:
        return N + 2

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]


REFUSED = {
    "a loader that drops points": (
        lambda: (network(), nn.CrossEntropyLoss(), DataLoader(PAIRS, batch_size=3, drop_last=True)),
        "drop_last=True, which leaves out the last 1",
    ),
    "a dataset that is shorter than it says": (
        lambda: (network(), nn.CrossEntropyLoss(), Short()),
        "a dataset of 12 points, as its length says",
    ),
    "sparse inputs": (lambda: (network(), nn.CrossEntropyLoss(), X.to_sparse(), Y), "a dense tensor"),
    "nested inputs": (
        lambda: (network(), nn.CrossEntropyLoss(), torch.nested.nested_tensor(list(X)), Y),
        "a dense tensor; got a nested one",
    ),
    "lazy weights": (
        lambda: (nn.LazyLinear(C).double(), nn.CrossEntropyLoss(), X, Y),
        "with weights that have shapes",
    ),
    "the class of a loss": (
        lambda: (network(), nn.CrossEntropyLoss, X, Y),
        r"got the class CrossEntropyLoss.*nn\.CrossEntropyLoss\(\)",
    ),
    "whole one-hot targets": (
        lambda: (network(), nn.CrossEntropyLoss(), X, functional.one_hot(Y, C)),
        "Give classes as torch.long from 0 on",
    ),
    "a model that fails by an assertion": (
        lambda: (Around(lambda *_: _fails()), nn.MSELoss(), X, Y),
        "`model` must be a module that takes",
    ),
}


def _fails() -> Tensor:
    raise AssertionError("guard")


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning", "ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name(name):
    build, message = REFUSED[name]
    model, *rest = build()
    with pytest.raises((TypeError, ValueError), match=message):
        Problem(model.eval(), *rest, **OPTIONS)


def test_rows_with_other_labels_than_their_targets_are_told():
    frame = pd.DataFrame(X.numpy(), index=list(range(N))[::-1])
    with pytest.warns(SolsetWarning, match="paired by their order"):
        Problem(network(), nn.CrossEntropyLoss(), frame, pd.Series(Y.numpy()), **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Problem(network(), nn.CrossEntropyLoss(), frame, pd.Series(Y.numpy(), index=frame.index), **OPTIONS)
