"""The commands that repeat the paper's experiments."""

from pathlib import Path

from solset.errors import needed
from solset.paper._data import cifar10
from solset.paper._digits import DigitsRun, DigitsSettings
from solset.paper._digits_report import digits_experiment
from solset.paper._public_files import CIFAR10_ARCHIVE, RESNET56_WEIGHTS
from solset.paper._resnet import pretrained, resnet56
from solset.paper._resnet56_report import ResNet56Run, resnet56_experiment
from solset.paper._resnet56_setup import ResNet56Settings, TrainedResNet56
from solset.paper._toy import ToySettings
from solset.paper._toy_report import toy_experiment, toy_text
from solset.reports import Command, Job, RunFolder
from solset.risk import digest


def _toy(settings: ToySettings) -> Job:
    def work(folder: RunFolder) -> Path:
        result, page = toy_experiment(settings, folder)
        print(toy_text(result))
        return page

    return Job({}, work)


def _demo(settings: DigitsSettings) -> Job:
    needed("sklearn", by="the demo", extra="demo")
    return Job({}, lambda folder: digits_experiment(DigitsRun(settings, folder)))


def _resnet56(settings: ResNet56Settings) -> Job:
    network = pretrained(resnet56, RESNET56_WEIGHTS.find(settings.weights))
    images = cifar10(CIFAR10_ARCHIVE.find(settings.data), count=settings.points)
    facts = {"weights": digest(network.state_dict().values()), "data": digest([images.inputs, images.labels])}

    def work(folder: RunFolder) -> Path:
        return resnet56_experiment(ResNet56Run(TrainedResNet56(settings, folder, network, images)))

    return Job(facts, work)


COMMANDS = (
    Command("toy", "Computes the paper's toy example: every number, and figures 2 and 3.", ToySettings, _toy),
    Command(
        "demo",
        "Moves ten handwritten digits of a training set, estimates the new solutions, and compares them with "
        "real retraining.",
        DigitsSettings,
        _demo,
    ),
    Command(
        "resnet56",
        "Computes the paper's second experiment, tables 1 to 3 and figure 4; downloads CIFAR-10 and weights.",
        ResNet56Settings,
        _resnet56,
    ),
)
