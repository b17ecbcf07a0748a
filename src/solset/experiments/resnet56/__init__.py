"""The paper's second experiment: ResNet56 on CIFAR-10 images, some of them moved (section 5.2)."""

from solset.experiments.resnet56.report import resnet56_experiment
from solset.experiments.resnet56.run import ResNet56Run
from solset.experiments.resnet56.setup import ResNet56Settings, TrainedResNet56

__all__ = ["ResNet56Run", "ResNet56Settings", "TrainedResNet56", "resnet56_experiment"]
