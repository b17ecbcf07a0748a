"""Examples with models of other libraries: their numbers are those of dense autograd on the model itself."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from solset import Move, Remove

EXAMPLES = Path(__file__).parents[1] / "examples"
REASON = "an optional library that the examples show is not installed"


@cache
def torchvision_imports() -> torch.library.Library | None:
    """Lets a torchvision be imported that was built for another PyTorch: no model here needs its operators.

    Transformers, Lightning and timm import it where it is installed. The operators that it looks for are
    declared, and stay so for as long as the library that is returned.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return None
    except RuntimeError:
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        operators = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        return operators
    return None


def example(name: str, *libraries: str) -> ModuleType:
    """An example as a module; the test is skipped where a library is missing."""
    if set(libraries) != {"sklearn"}:
        torchvision_imports()
    for library in libraries:
        pytest.importorskip(library, reason=REASON, exc_type=ImportError)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_removal_from_a_pipeline_is_the_closed_form_with_a_free_intercept():
    problem, pipeline = example("trainers", "sklearn").scikit_learn()
    x, y = (part.squeeze(-1) if part.shape[1] == 1 else part for part in problem.risk().points[range(569)])
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    p = torch.sigmoid(design @ problem.weights())
    decay = torch.ones(31, dtype=torch.float64)
    decay[-1] = 0.0
    hessian = (design.T * (p * (1 - p))) @ design + torch.diag(decay)
    expected = torch.linalg.solve(hessian, design[7] * (p[7] - y[7]))
    change = problem.estimate(Remove([7]), order="first").min_norm().weights - problem.weights()
    assert float((change - expected).norm() / expected.norm()) <= 1e-8
    assert float(problem.gradient().norm()) <= 1e-8
    assert pipeline[-1].coef_.shape == (1, 30)


class Dense:
    """Hessian and derivatives of a Hugging Face model's risk by dense autograd, a displacement included."""

    def __init__(self, hugging, model: nn.Module, moved: tuple[str, ...] | None = None) -> None:
        batch, labels = hugging.documents()
        named = dict(model.named_parameters())
        names = [n for n, value in named.items() if value.requires_grad and (moved is None or n in moved)]
        self.weights = [named[name] for name in names]
        words = model.get_input_embeddings()
        shift = torch.zeros(*batch["input_ids"].shape, words.embedding_dim).double().requires_grad_()
        handle = words.register_forward_hook(lambda _, __, output: output + shift)
        with sdpa_kernel(SDPBackend.MATH):
            logits = model(**batch).logits
        handle.remove()
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        value = losses.mean() + 0.05 * sum(weight.square().sum() for weight in self.weights)
        gradient = self._flat(torch.autograd.grad(value, self.weights, create_graph=True))
        rows = [
            torch.autograd.grad(
                entry, [*self.weights, shift], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for entry in gradient
        ]
        self.hessian = torch.stack([self._flat(row[:-1]) for row in rows])
        self.mixed = torch.stack([row[-1].reshape(-1) for row in rows])
        mean = self._flat(torch.autograd.grad(losses.mean(), self.weights, retain_graph=True))
        self.test_slope = self._flat(torch.autograd.grad(losses[0], self.weights))
        self.slope = (self.test_slope - mean) / len(losses)  # the mean is over the others

    @staticmethod
    def _flat(parts) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])

    def changed_by(self, right: Tensor) -> Tensor:
        return self._flat(self.weights).detach() - torch.linalg.solve(self.hessian, right)


def assert_close(value: Tensor, expected: Tensor, start: Tensor) -> None:
    assert float((value - expected).norm() / (expected - start).norm()) <= 1e-8


@pytest.mark.parametrize("name", ["distilbert", "gpt2"])
def test_moved_embeddings_and_removed_documents_are_those_of_autograd(name):
    hugging = example("huggingface", "transformers", "peft")
    torch.manual_seed(0)
    model = getattr(hugging, name)()
    truth = Dense(hugging, model)
    start = truth._flat(truth.weights).detach()
    dx = torch.zeros(truth.mixed.shape[1], dtype=torch.float64)
    size = dx.numel() // hugging.DOCUMENTS
    dx[:size] = torch.linspace(-0.01, 0.02, size, dtype=torch.float64)
    assert_close(hugging.moved_embeddings(model), truth.changed_by(truth.mixed @ dx), start)
    assert_close(hugging.removed_documents(model), truth.changed_by(-truth.slope), start)


def test_a_head_alone_has_the_scores_of_autograd():
    hugging = example("huggingface", "transformers", "peft")
    torch.manual_seed(0)
    model = hugging.distilbert()
    truth = Dense(hugging, model, ("classifier.weight", "classifier.bias"))
    pulled = torch.linalg.solve(truth.hessian, truth.slope)
    scores = hugging.head_only(model)
    assert float(scores[0, 0]) == pytest.approx(float(truth.test_slope @ pulled), rel=1e-8)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_without_a_document_are_those_of_autograd():
    hugging = example("huggingface", "transformers", "peft")
    torch.manual_seed(0)
    model = hugging.distilbert()
    new = hugging.lora(model)
    adapted = model  # peft puts its adapters into the model itself
    truth = Dense(hugging, adapted)
    start = truth._flat(truth.weights).detach()
    assert_close(new, truth.changed_by(-truth.slope), start)


@pytest.mark.parametrize(
    ("library", "build"),
    [
        ("lightning", lambda shown: shown.lightning()),
        ("timm", lambda shown: shown.timm("resnet10t")),
        (
            "timm",
            lambda shown: shown.timm("vit_tiny_patch16_224", img_size=32, embed_dim=8, depth=1, num_heads=2),
        ),
        ("skorch", lambda shown: shown.skorch()),
    ],
    ids=["lightning", "timm resnet", "timm vit", "skorch"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_of_other_libraries_go_in_as_they_are(library, build):
    shown = example("trainers", "sklearn", library)
    torch.manual_seed(0)
    problem = build(shown)
    dx = 0.01 * torch.ones(1, *problem.input_shape, dtype=problem.weights().dtype)
    assert problem.estimate(Move([0], dx)).min_norm().status == "converged"
