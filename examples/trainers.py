"""Models of other libraries: a Lightning module, timm's ViT and ResNet, skorch, and a scikit-learn pipeline.

pip install solset lightning timm skorch scikit-learn
python examples/trainers.py
"""

from typing import cast

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import solset


def scikit_learn() -> tuple[solset.Problem, Pipeline]:
    """A pipeline that ends in logistic regression, as one linear layer on the scaled features.

    scikit-learn minimises ``C Σ L_i + ‖coefficients‖²/2``, and does not shrink the intercept. Divided by
    ``C`` this is the sum of the losses with a weight decay of ``1/C`` on the weights and 0 on the bias.
    """
    features, labels = load_breast_cancer(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-12))
    pipeline.fit(features, labels)
    regression = cast(LogisticRegression, pipeline[-1])
    layer = nn.Linear(features.shape[1], 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(regression.coef_))
        layer.bias.copy_(torch.from_numpy(regression.intercept_))
    loss, decay = nn.BCEWithLogitsLoss(reduction="sum"), {"bias": 0.0, "weight": 1 / regression.C}
    scaled, targets = pipeline[:-1].transform(features), labels[:, None].astype(float)
    return solset.Problem(layer.eval(), loss, scaled, targets, weight_decay=decay), pipeline


def lightning() -> solset.Problem:
    """A Lightning module is a module: give it with the loss of its ``training_step``."""
    from lightning import LightningModule

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:  # noqa: ARG002
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    pairs = [(torch.randn(3).double(), i % 2) for i in range(8)]  # the data set of your data module
    model = Classifier().double().eval()
    return solset.Problem(model, nn.CrossEntropyLoss(), pairs, weight_decay=0.1, gradient_tol=10.0)


def timm(name: str, **sizes: int) -> solset.Problem:
    """A model of timm of which the head was trained: ``"vit_tiny_patch16_224"`` or ``"resnet10t"``."""
    from timm import create_model

    model = create_model(name, pretrained=False, num_classes=2, **sizes).double().eval()
    images, labels = torch.randn(4, 3, 32, 32).double(), torch.tensor([0, 1, 1, 0])
    head = ["head.*"] if "vit" in name else ["fc.*"]
    options = {"parameters": head, "weight_decay": 0.1, "gradient_tol": 100.0}
    return solset.Problem(model, nn.CrossEntropyLoss(), images, labels, **options)


def skorch() -> solset.Problem:
    """A network of skorch holds a module and a loss after ``fit``; arrays go in as they are."""
    from skorch import NeuralNetClassifier

    features, labels = torch.randn(8, 3).numpy(), (torch.arange(8) % 2).numpy()
    options = {"criterion": nn.CrossEntropyLoss, "max_epochs": 2, "train_split": None, "verbose": 0}
    net = NeuralNetClassifier(nn.Linear(3, 2), **options).fit(features, labels)
    return solset.Problem(
        net.module_.eval(), net.criterion_, features, labels, weight_decay=0.1, gradient_tol=10.0
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    problem, pipeline = scikit_learn()
    without = problem.estimate(solset.Remove([0])).min_norm().weights
    print("scikit-learn", problem, "change without patient 0:", float((without - problem.weights()).norm()))
    print("Lightning", lightning())
    print(
        "timm",
        timm("vit_tiny_patch16_224", img_size=32, embed_dim=8, depth=1, num_heads=2),
        timm("resnet10t"),
    )
    print("skorch", skorch())
