"""What is looked at once when a problem opens its door: outputs, padding, and the first call of the loss."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from solset.errors import SolsetWarning, bad_type, bad_value
from solset.risk._empirical import EmpiricalRisk
from solset.risk._losses import WholeBatch
from solset.risk._probe import ONE_GRAPH, HalfPrecision
from solset.risk._tree_loss import TreeLoss
from solset.risk._trees import Leaf, Tree, named_tensors


def opened(risk: EmpiricalRisk, few: Sequence[int], *, target_moves: bool | None = None) -> EmpiricalRisk:
    """The risk whose outputs and targets are one tensor each, whatever model and loss take.

    Args:
        risk: Risk with the user's loss; its points and door are made.
        few: Indices of a few points that are looked at.
        target_moves: Whether the target is the input and moves with it; ``None`` warns if they are equal.

    Raises:
        TypeError: If the model does not take a batch or returns something else than tensors, or the loss does
            not take outputs and targets.
        ValueError: If outputs depend on how far a point is padded, or outputs and targets broadcast.

    Cost: two forward passes of these points, and one of each by itself where batches are padded.
    """
    inputs, targets = risk.points[few]
    risk = replace(
        risk, door=replace(risk.door, moves_target=_target_moves(risk, inputs, targets, target_moves))
    )
    returned = _first_call(risk, inputs)
    _call_alone(risk, inputs)
    door, aims = risk.door, risk.points.targets
    if not isinstance(returned, Tensor):
        tree = Tree.of(returned, len(few), "outputs")
        if not tree.leaves or not all(leaf.is_floating for leaf in tree.leaves):
            raise bad_type(
                "outputs",
                expected="tensors of real numbers",
                got=[f"{leaf.name} ({leaf.dtype})" for leaf in tree.leaves] or type(returned).__name__,
                cure='Name the ones that the loss takes, as in outputs="logits".',
            )
        door = replace(door, outputs=tree)
    loss = risk.loss.loss if isinstance(risk.loss, WholeBatch) else risk.loss
    if door.outputs is not None or aims is not None:
        loss = TreeLoss(loss, door.outputs, aims, door.moves_target)
    if risk.is_whole:
        loss = WholeBatch(loss, len(risk.points))
    whole = replace(risk, door=door, loss=loss)
    with torch.no_grad(), torch.random.fork_rng():
        outputs = whole.forward(whole.layout.split(whole.weights), inputs)
    if not whole.is_whole:
        _check_loss(whole, outputs, targets)
    _refuse_padding(whole, few, outputs)
    return whole


def _target_moves(risk: EmpiricalRisk, inputs: Tensor, targets: Tensor, asked: bool | None) -> bool:
    """Whether the target moves with its input; warns where an autoencoder's would be held silently."""
    points = risk.points
    if points.tree is not None and points.moving is None:
        is_input = False
    else:
        features = points.features_in(inputs)
        is_input = targets.shape == features.shape and torch.equal(targets, features) and bool(targets.any())
    if asked and not is_input:
        raise bad_value(
            "target_moves",
            expected="left out where the targets are not the features that move",
            got=f"True, with targets of shape {tuple(targets.shape)}",
            cure="Pass the same tensor as inputs and targets.",
        )
    if is_input and asked is None:
        warnings.warn(
            "the targets equal the inputs, but are held where an input moves: pass target_moves=True for an "
            "autoencoder, whose target moves with its input, or False to hold it",
            SolsetWarning,
            stacklevel=4,
        )
    return bool(asked)


def _first_call(risk: EmpiricalRisk, inputs: Tensor) -> Any:
    """What the model returns; an error of its own is told with the batch that it was given."""
    try:
        with torch.no_grad(), torch.random.fork_rng(), HalfPrecision() as half:
            returned = risk.returned(risk.layout.split(risk.weights), inputs)
        half.refuse("model")
        return returned
    except Exception as error:  # a user's code may raise anything
        if str(error).startswith("`"):  # it is a message of solset
            raise
        if _takes_all_alone(risk, inputs):
            raise _coupled(f"{type(error).__name__} for {len(inputs)} points without the others") from error
        tree = risk.points.tree
        leaves = tree.leaves if tree else [Leaf("", tuple(inputs.shape[1:]), inputs.dtype, 0)]
        parts = [f"{leaf.name or 'one tensor'} {leaf.shape} {leaf.dtype}" for leaf in leaves]
        cure = "Inputs of a dict go in by name, those of a tuple in order; the last of a tuple is the target."
        if not any(leaf.is_floating for leaf in leaves):
            cure = "Give features as real numbers; whole numbers, such as token ids, are for embeddings."
        raise bad_type(
            "model",
            expected=f"a module that takes {', '.join(parts)} for each point ({risk.door.style})",
            got=f"{type(error).__name__}: {error}",
            cure=cure,
        ) from error


def _call_alone(risk: EmpiricalRisk, inputs: Tensor) -> None:
    """Refuses a model that does not take a point by itself, such as one of all nodes of a graph."""
    try:
        with torch.no_grad(), torch.random.fork_rng():
            risk.returned(risk.layout.split(risk.weights), inputs[:1])
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        raise _coupled(f"{type(error).__name__} for one point alone: {error}") from error


def _takes_all_alone(risk: EmpiricalRisk, inputs: Tensor) -> bool:
    """Whether the model that failed on some points takes all points at once."""
    count = len(risk.points)
    if len(inputs) == count:
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng():
            risk.returned(risk.layout.split(risk.weights), risk.points[range(count)][0])
    except Exception:  # noqa: BLE001 - as above; then it does not take these inputs at all
        return False
    return True


def _coupled(got: str) -> ValueError:
    return bad_value("model", expected="to treat every point by itself", got=got, cure=ONE_GRAPH)


def _check_loss(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> None:
    """Refuses a loss that does not take the outputs, or computes in half precision."""
    shown = None if risk.door.outputs is None else [leaf.name for leaf in risk.door.outputs.leaves]
    with torch.no_grad(), HalfPrecision() as half:
        check_loss(risk.loss, outputs, targets, shown)
    half.refuse("loss")


def check_loss(
    loss: Callable[[Tensor, Tensor], Any],
    outputs: Tensor,
    targets: Tensor,
    names: Sequence[str] | None = None,
) -> None:
    """Refuses a loss that does not take the outputs, or broadcasts ``(b, 1)`` against ``(b,)``.

    Args:
        loss: Function of outputs and targets, which is called once.
        outputs: Outputs of a few points, a row per point.
        targets: Targets of the same points.
        names: Names of the outputs where the model returns several; ``None`` for one tensor.

    Raises:
        TypeError: If the loss raises an error.
        ValueError: If it pairs every output with every target.
    """
    with _Broadcasts(outputs, targets) as seen, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using a target size")  # it is refused below
        try:
            loss(outputs, targets)
        except (TypeError, RuntimeError, ValueError, IndexError, KeyError, AttributeError) as error:
            shown = tuple(outputs.shape) if names is None else names
            cure = "Reshape one of them."
            if names is not None:
                cure = f"Name the output that the loss takes, as in outputs={str(names[0])!r}."
            elif outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
                cure = "Use targets.unsqueeze(-1), or a model that ends in squeeze(-1)."
            elif any(sign in str(error) for sign in _OF_TYPES):
                cure = "Give classes as torch.long from 0 on, and real targets in the dtype of the model."
            raise bad_type(
                "loss",
                expected=f"a function of outputs {shown} and targets {tuple(targets.shape)}",
                got=f"{type(error).__name__}: {error}",
                cure=cure,
            ) from error
    if seen.names:
        raise bad_value(
            "targets",
            expected=f"shaped like the outputs, {tuple(outputs.shape)}",
            got=f"{tuple(targets.shape)}, which {seen.names[0]} broadcasts to every pair of points",
            cure="Use targets.unsqueeze(-1), or a model that ends in squeeze(-1).",
        )


_OF_TYPES = ("dtype", "floating point", "bool tensor", "out of bounds", "not implemented for")
_OF_CLASSES = {functional.cross_entropy, functional.nll_loss, functional.multi_margin_loss}


class _Broadcasts(TorchFunctionMode):
    """A context that records functions which meet ``(b, 1)`` and ``(b,)`` in one call and pair all points."""

    def __init__(self, outputs: Tensor, targets: Tensor) -> None:
        super().__init__()
        count = len(outputs)
        shapes = {tuple(outputs.shape), tuple(targets.shape)}
        self._is_open = count > 1 and shapes == {(count,), (count, 1)}
        self._pair, self._all = shapes, (count, count)
        self.names: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and records its name if its result has an entry for each pair of points."""
        result = func(*args, **(kwargs or {}))
        if self._is_open:
            given = {
                tuple(part.shape) for part in (*args, *(kwargs or {}).values()) if isinstance(part, Tensor)
            }
            made = {tuple(part.shape) for _, part in named_tensors(result)}
            is_reduced = getattr(func, "__module__", "") == functional.__name__ and () in made
            is_reduced &= func not in _OF_CLASSES
            if self._pair <= given and (self._all in made or is_reduced):
                self.names.append(getattr(func, "__name__", str(func)))
        return result


def _refuse_padding(risk: EmpiricalRisk, few: Sequence[int], outputs: Tensor) -> None:
    """Refuses a model whose outputs depend on how far a batch was padded."""
    if risk.points.alone is None:
        return
    parameters = risk.layout.split(risk.weights)
    for place, index in enumerate(few):
        alone = risk.points.alone(index)
        single = replace(risk, points=alone)
        with torch.no_grad(), torch.random.fork_rng():
            output = single.door.tensor(single.returned(parameters, alone[[0]][0]), 1)[0]
        slack = 1e4 * torch.finfo(output.dtype).eps * float(outputs[place].abs().max() + 1.0)
        if not _matches(output, outputs[place], slack):
            raise bad_value(
                "model",
                expected="outputs that do not depend on the padding of a batch",
                got=f"other outputs for point {index} by itself than beside the longest point",
                cure="Pass the mask of the padding with the batch, and use it in the model.",
            )


def _matches(output: Tensor, padded: Tensor, slack: float) -> bool:
    """Whether an output equals the padded one, or its first or last entries along shortened axes."""
    if output.ndim != padded.ndim or any(s > t for s, t in zip(output.shape, padded.shape, strict=True)):
        return False
    first = padded[tuple(slice(0, size) for size in output.shape)]
    last = padded[tuple(slice(padded.shape[axis] - size, None) for axis, size in enumerate(output.shape))]
    return any(float((output - part).abs().max()) <= slack for part in (first, last))
