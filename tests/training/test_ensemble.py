"""The same recipe from several seeds: clouds of outputs, and what of an attribution is noise."""

import copy
import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Remove, Training
from solset.errors import Status
from solset.sets import PointCloud
from solset.training import CloudChange, SeedAttribution

SEEDS = range(4)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).tanh()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


@pytest.fixture(scope="module")
def training() -> Training:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    return Training(net, nn.MSELoss(), *data(), optimizer=sgd, epochs=4, batch_size=5, seed=9)


@pytest.fixture(scope="module")
def ensemble(training):
    return training.ensemble(SEEDS, progress=False)


def goal(model: nn.Module) -> Tensor:
    return model(torch.full((3, 3), 0.3, dtype=torch.float64)).square().mean()


def test_each_run_is_the_recipe_with_its_seed(ensemble):
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    for seed, run in zip(SEEDS, ensemble.runs, strict=True):
        alone = Training(net, nn.MSELoss(), *data(), optimizer=sgd, epochs=4, batch_size=5, seed=seed).run()
        assert torch.equal(run.weights, alone.weights)
        assert torch.equal(run.attribute(goal).weights, alone.attribute(goal).weights)


def test_held_layers_are_those_of_each_seed():
    def partly_held() -> nn.Module:
        model = net()
        model[0].requires_grad_(requires_grad=False)
        return model

    sgd = partial(torch.optim.SGD, lr=0.05)
    arguments = (partly_held, nn.MSELoss(), *data())
    together = Training(*arguments, optimizer=sgd, epochs=2, seed=0).ensemble([5, 6])
    alone = Training(*arguments, optimizer=sgd, epochs=2, seed=6).run()
    assert torch.equal(together.runs[1].attribute(goal).weights, alone.attribute(goal).weights)


def test_attribution_is_the_mean_over_seeds_with_its_standard_error(ensemble):
    over_seeds = ensemble.attribute(goal)
    single = torch.stack([run.attribute(goal).weights for run in ensemble.runs])
    assert torch.allclose(over_seeds.mean, single.mean(dim=0), rtol=1e-12)
    assert torch.allclose(over_seeds.standard_error, single.std(dim=0) / 2.0, rtol=1e-12)
    shares = ((single > 0) == (over_seeds.mean > 0)).double().mean(dim=0)
    assert torch.equal(over_seeds.agreement, shares)
    assert over_seeds.rows()[3]["removal"] == -float(over_seeds.mean[3])


def test_points_whose_sign_changes_over_seeds_are_called_noise():
    mean, error = torch.tensor([1.0, 0.1]), torch.tensor([0.1, 0.1])
    attribution = SeedAttribution(mean, error, torch.tensor([1.0, 0.5]), ())
    assert attribution.is_noise.tolist() == [False, True]
    assert "1 of 2 points" in attribution.message
    assert "stable for 1 of 2" in repr(attribution)


def test_clouds_are_the_outputs_of_each_seed_before_and_after(ensemble):
    inputs, change = torch.full((2, 3), 0.2, dtype=torch.float64), Remove([3])
    clouds = ensemble.estimate(change, inputs)
    for place, run in enumerate(ensemble.runs):
        with torch.no_grad():
            assert torch.equal(clouds.before.points[place], run.model(inputs).flatten())
            real = run.retrain(change).model(inputs).flatten()
        assert torch.equal(clouds.real.points[place], real)
    assert clouds.distances()["predicted to real"] < clouds.distances()["before to real"]


def test_distances_of_clouds_are_those_of_point_sets():
    before, after = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    clouds = CloudChange(PointCloud(before), PointCloud(after), None)
    assert clouds.distances() == {"before to predicted": 3.0}
    assert clouds.excesses() == {"before over predicted": 3.0, "predicted over before": 3.0}
    assert clouds.signal_to_noise == pytest.approx(1.5 / 4.0)
    assert CloudChange(PointCloud(before * 0), PointCloud(after), None).signal_to_noise == math.inf


@pytest.mark.parametrize("seeds", [[1], [], [2, 2]])
def test_fewer_than_two_seeds_or_a_repeated_one_are_refused(training, seeds):
    with pytest.raises(ValueError, match="at least two different seeds"):
        training.ensemble(seeds)


def test_runs_and_ensembles_are_results_with_rows(ensemble):
    run = ensemble.runs[0]
    rows = run.to_dataframe()
    assert rows["loss"].tolist() == run.losses
    assert rows["points"].tolist() == [len(batch) for batch in run.batches]
    assert json.loads(json.dumps(run.to_dict()))["weights"] == run.weights.tolist()
    assert run._repr_html_().startswith("<table><caption")
    assert ensemble.to_dataframe()["last_loss"].tolist() == [one.losses[-1] for one in ensemble.runs]
    assert len(ensemble.to_dict()["runs"]) == len(ensemble.seeds)
    assert run.status == ensemble.status == "converged"
    assert run.message == ensemble.message == ""


def test_a_seed_in_doubt_puts_the_mean_in_doubt(ensemble):
    over_seeds = ensemble.attribute(goal)
    assert over_seeds.status == "converged"
    first, *others = over_seeds.per_seed
    doubted = replace(over_seeds, per_seed=(replace(first, status=Status.DOUBTFUL), *others))
    assert doubted.status == "doubtful"
    assert f"1 of {len(others) + 1} seeds" in doubted.message


def test_losses_and_gradients_of_points_are_those_of_the_module(ensemble):
    run, (x, y) = ensemble.runs[0], data()
    chosen = [7, 2]
    leaf = x[chosen].clone().requires_grad_()
    losses = (run.model(leaf) - y[chosen]).square().flatten()
    torch.testing.assert_close(run.point_losses(points=chosen), losses.detach())
    (slope,) = torch.autograd.grad(losses.sum(), leaf)
    torch.testing.assert_close(run.input_gradients(chosen), slope)


def test_a_module_in_training_mode_is_evaluated_as_it_is_and_stays_as_it_is():
    x, y = data()

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(x.shape[1], 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))

    sgd = partial(torch.optim.SGD, lr=0.05)
    run = Training(lambda: make().to(x.dtype), nn.MSELoss(), x, y, optimizer=sgd, batch_size=8).run()
    model = copy.deepcopy(run.model).train()
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(run.point_losses(model), run.point_losses())
    torch.testing.assert_close(run.outputs(model), run.outputs(run.model))
    assert run.value(goal, model) == pytest.approx(run.value(goal))
    assert model.training
    torch.testing.assert_close(model.state_dict(), before)
