"""A record of the user's own training loop, taken by hooks while it runs."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from solset.errors import bad_type, bad_value
from solset.results import copies_of, copy_of
from solset.risk import Pick, refuse_module, source_of, style_of
from solset.training._call import Call
from solset.training._data import Data, moving_in, quiet
from solset.training._divergence import require_finite
from solset.training._losses import Loss
from solset.training._optimizers import OptimizerStep, refuse_step_hooks
from solset.training._recipe import require_norm
from solset.training._run import Run
from solset.training._setting import Loop, Setting
from solset.training._state import (
    State,
    capture,
    own_randomness,
    put_settings,
    randomness,
    restore,
    set_randomness,
    settings_of,
    trained,
    without_gradient,
)
from solset.training._step import Record
from solset.training._tape import Tape
from solset.training._told import NAMED


class Recorder:
    """Writes down a loop that the user runs; see :func:`record`."""

    def __init__(self, setting: Setting, model: nn.Module, optimizer: Optimizer, stride: int) -> None:
        self._setting, self._model, self._optimizer = setting, model, optimizer
        self._device = next(model.parameters()).device
        self._tape, self._queue = Tape(stride), list[list[int]]()
        self._before: tuple[Tensor, ...] | None = None
        self._start, self._settings = capture(model, optimizer), settings_of(optimizer)
        self._parts, self._modes = _parts(model, optimizer), list[bool]()
        self._hooks: list[Any] = [
            model.register_forward_pre_hook(self._note_forward),
            optimizer.register_step_pre_hook(self._note_settings),
            optimizer.register_step_post_hook(self._note_step),
        ]

    def follow(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The batches of a loader, as it gives them; the indices of their points are written down.

        Args:
            loader: Loader without worker processes whose data set is the recorded data, in the same order.
        """
        if loader.num_workers or loader.batch_sampler is None:
            raise bad_value(
                "loader",
                expected="one that batches its points in this process",
                got=f"{loader.num_workers} workers" if loader.num_workers else "one without batches",
                cure="Build it with num_workers=0 and a batch_size.",
            )
        sampler, taken = loader.batch_sampler, self._queue
        noted = copy.copy(loader)
        noted.__dict__["batch_sampler"] = _Noted(sampler, taken)
        yield from noted

    def run(self) -> Run:
        """Ends the record and returns the run, after it took the first steps again to compare.

        Raises:
            ValueError: If nothing was recorded, or the steps taken again end at other weights: the loop then
                does something that was not named, such as clipping or augmentation.
        """
        for hook in self._hooks:
            hook.remove()
        refuse_step_hooks(self._optimizer)  # some may have come after the record began
        if not self._tape.records:
            raise bad_value(
                "loop", expected="steps of the optimizer", got="none", cure="Train between record and run."
            )
        self._require_same_parameters()
        end = capture(self._model, self._optimizer)
        self._setting = replace(self._setting, pair=partial(_in_modes, self._setting.pair, self._modes))
        require_finite(end, self._start, len(self._tape.records) - 1)
        self._compare(end)
        model = copy_of(self._model)
        return Run(self._setting, self._tape, model, end, self._start.parameters, self._again)

    def _note_forward(self, model: nn.Module, _: Any) -> None:
        if not model.training or not torch.is_grad_enabled():
            return  # an evaluation on the way
        if self._before is not None:
            batches = len(self._queue)
            raise bad_value(
                "loop",
                expected="one forward pass for each step of the optimizer",
                got=f"two on {'one batch' if batches == 1 else f'{batches} batches'}",
                cure="Record loops without accumulated gradients."
                if batches > 1
                else "Steps by several gradients of a batch, such as those of SAM, are not taken. Look at "
                "the model in evaluation mode and under torch.no_grad().",
            )
        self._require_same_parameters()
        modes = [module.training for module in model.modules()]
        if modes != (self._modes or modes):
            raise bad_value(
                "loop",
                expected="every layer in the same mode in all steps, training or evaluation",
                got="layers whose mode changed on the way",
                cure="Set all modes before the first step, and again after model.train().",
            )
        self._modes = modes
        self._tape.keep(len(self._tape.records), lambda: capture(self._model, self._optimizer))
        self._before = randomness(self._device)

    def _note_settings(self, optimizer: Optimizer, arguments: tuple[Any, ...], by_name: Any) -> None:
        self._settings = settings_of(optimizer)
        if len(arguments) + len(by_name) == 1:  # a closure goes forward inside of the step
            self._require_batch()

    def _require_batch(self) -> tuple[Tensor, ...]:
        """The random generators before the forward pass of a step, which is refused where there was none."""
        if self._before is None or not self._queue:
            raise bad_value(
                "loop",
                expected="a forward pass in training mode on a batch of the followed loader for each step",
                got="a step of the optimizer without one",
                cure="Iterate over recorder.follow(loader), and call model.train() before.",
            )
        return self._before

    def _note_step(self, *_: Any) -> None:
        before, step = self._require_batch(), len(self._tape.records)
        self._require_same_parameters()
        skipped = without_gradient(self._model)
        record = Record(self._queue.pop(0), step, self._settings, before, math.nan, skipped)
        self._tape.records.append(record)
        self._before = None

    def _require_same_parameters(self) -> None:
        """Refuses other trained parameters, buffers or groups than at the start of the record."""
        now = _parts(self._model, self._optimizer)
        others = [name for name in {**self._parts, **now} if self._parts.get(name) != now.get(name)]
        if not others:
            return
        raise bad_value(
            "loop",
            expected="the same trained parameters, buffers and groups of the optimizer in every step",
            got=f"{', '.join(others[:NAMED])} frozen, unfrozen, added or replaced on the way",
            cure="Call run() before that. What follows is a record of its own, of an optimizer that holds "
            "exactly the parameters that are trained then.",
        )

    def _again(self, setting: Setting, _: bool | None = None) -> tuple[nn.Module, list[float]]:
        """The recorded steps taken again in a changed setting: the model and the losses."""
        model, optimizer = self._setting.pair()
        restore(self._tape.state(0), model, optimizer)
        loop, losses = Loop(setting, model, optimizer), []
        for step, record in enumerate(self._tape.records):
            with own_randomness(self._device):
                set_randomness(record.randomness, self._device)
                put_settings(record.settings, optimizer)
                losses.append(loop.finite_step(record.batch, step))
        return model, losses

    def _compare(self, end: State) -> None:
        """Takes all steps again and refuses another end; fills in the losses."""
        model, losses = self._again(self._setting)
        self._tape.records = [
            replace(record, loss=loss) for record, loss in zip(self._tape.records, losses, strict=True)
        ]
        gap, place = _gap(end.parameters, trained(model))
        if place:
            raise bad_value(
                "loop",
                expected="a loss of a batch, clipping and augmentation as named, and a step",
                got=f"one that ends {gap:.3g} away from its record taken again",
                cure="Name clip_norm and augment, and let nothing else change batches, gradients or weights. "
                "A data set or an augmentation that draws at random needs solset.Training.",
            )
        gap, place = _gap(end.buffers, dict(model.named_buffers()))
        if place:
            raise bad_value(
                "loop",
                expected="buffers, such as running statistics, that only the forward passes of steps move",
                got=f"{place} that ends {gap:.3g} away from its record taken again",
                cure="Call model.eval() before passes without a step, such as those of validation, and "
                "model.train() after them.",
            )


def record(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    x: Any,
    y: Any = None,
    *,
    clip_norm: float | None = None,
    augment: Callable[[Any], Any] | None = None,
    moves: str | None = None,
    outputs: Pick = None,
    stride: int = 1,
) -> Recorder:
    """A recorder for a training loop of one's own, whose ``run()`` is a :class:`Run`.

    Hooks on the model and the optimizer write down each step, and are removed by ``run()``. The loop stays as
    it is, but for the loader, which is followed.

    Args:
        model: Module in training, before its first recorded step; what came before is the start.
        optimizer: Optimizer of all its parameters that require grad.
        loss: Function ``(outputs, targets) -> scalar`` that the loop uses.
        x: Training inputs, or the data set of the loader.
        y: Targets beside inputs in memory.
        clip_norm: Norm to which the loop clips the gradient; ``None`` if it does not.
        augment: Function of a batch of inputs that the loop applies; ``None`` if it does not.
        moves: Path of the tensor in the inputs that may move; by default the only one of real numbers.
        outputs: Choice among the outputs for the loss, such as ``"logits"``.
        stride: Number of steps from one kept state to the next; 1 keeps all.

    Raises:
        TypeError: If a part is of another type, or the model is compiled, scripted or a parallel wrapper.
        ValueError: If the optimizer's step has no derivative, it does not hold all trained parameters, or
            there are hooks on its steps or on gradients.

    Cost: a copy of the state at each kept step, and one training for the comparison in ``run()``.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x, y = torch.linspace(-1, 1, 8)[:, None], torch.linspace(0, 1, 8)[:, None]
        >>> model, loss = nn.Linear(1, 1), nn.MSELoss()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> recorder = record(model, optimizer, loss, x, y)
        >>> for inputs, targets in recorder.follow(DataLoader(TensorDataset(x, y), batch_size=4)):
        ...     optimizer.zero_grad()
        ...     loss(model(inputs), targets).backward()
        ...     optimizer.step()
        >>> recorder.run().batches
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    if not isinstance(optimizer, Optimizer):
        raise bad_type(
            "optimizer",
            expected="the optimizer of the loop",
            got=type(optimizer).__name__,
            cure="Pass it as it is.",
        )
    require_norm(clip_norm)
    refuse_step_hooks(optimizer)
    refuse_module("model", model)  # copies have lost hooks
    start = copies_of(model, optimizer)

    def pair() -> tuple[nn.Module, Optimizer]:
        twin, its_optimizer = copies_of(*start)
        return twin, its_optimizer

    twin, its_optimizer = pair()
    OptimizerStep(its_optimizer, list(trained(twin).values()))  # refuses what has no derivative
    parameters = list(trained(model).values())
    source = quiet(source_of(x, y, parameters[0].detach()))
    first, _ = source.read([0])
    data, call = Data(source, moving_in(first, moves)), Call(style_of(model, first), outputs)
    return Recorder(Setting(loss, call, data, clip_norm, augment, pair), model, optimizer, stride)


def _parts(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What is the same in every step of a record, by name."""
    groups = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    parameters = {name: id(value) for name, value in trained(model).items()}
    shapes = {name: tuple(value.shape) for name, value in model.named_buffers()}
    return {**parameters, **shapes, "the groups of the optimizer": groups}


def _in_modes(
    pair: Callable[[], tuple[nn.Module, Optimizer]], modes: Sequence[bool]
) -> tuple[nn.Module, Optimizer]:
    """A model with each layer in the mode of its steps, and its optimizer."""
    model, optimizer = pair()
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return model, optimizer


def _gap(values: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest difference of two sets of tensors beyond rounding, and the name of that tensor, if any.

    Rounding is 1e-5 of the largest entry of all tensors of real numbers; whole numbers have none.
    """
    finite = [value[value.isfinite()].abs() for value in values.values() if value.is_floating_point()]
    rounding = 1e-5 * max((float(value.max()) for value in finite if value.numel()), default=0.0)
    worst, place = 0.0, ""
    for name, value in values.items():
        size = _largest(value, again[name])
        if not size <= (rounding if value.is_floating_point() else 0.0) and not size <= worst:
            worst, place = size, name
    return worst, place


def _largest(value: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, whose infinite entries and NaN may be the same."""
    is_same = (value == other) | (value.isnan() & other.isnan())
    gaps = (value.detach().double() - other.detach().double()).abs()[~is_same]
    return float(gaps.max()) if gaps.numel() else 0.0


class _Noted:
    """A sampler of batches that writes down what it gives."""

    def __init__(self, sampler: Any, taken: list[list[int]]) -> None:
        self._sampler, self._taken = sampler, taken

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._sampler:
            self._taken.append([int(i) for i in batch])
            yield batch

    def __len__(self) -> int:
        return len(self._sampler)
