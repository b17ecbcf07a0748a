"""The check of a model's derivatives at the door: autograd against differences of the module itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from solset.derivatives import Premise
from solset.derivatives import Verdict as Outcome
from solset.errors import bad_value
from solset.operators import (
    Call,
    Comparison,
    Probe,
    Verdict,
    culprit,
    jumping_features,
    on_leaves,
    stepping_features,
    take_differences,
)
from solset.results import copy_of
from solset.risk import EmpiricalRisk, filling_rows, flat_rows, in_float64, is_out_of_memory, probe_indices

LARGE = 100_000  # number of weights above which one point is compared instead of two
FAULTS = {Verdict.WRONG, Verdict.MISSING, Verdict.JUMPS}


def derivative_premise(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Premise:
    """The premise that derivatives by autograd are those of the module, at one or two points.

    Outputs and their gradient are compared with central differences along a random direction in weights and
    inputs, in a copy of the module in float64 whose own weights are set. First derivatives that are wrong are
    refused. Second derivatives that are wrong or missing are taken from differences of the gradient from then
    on, with a warning at the first product.

    Args:
        risk: Empirical risk at the trained weights, whose routes are changed.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points, ``(n, ...)``.

    Raises:
        ValueError: If a first derivative is wrong; the message names the module.

    Cost: about one gradient of eight points by count, in float64, and the memory of a copy of the model.
    """
    probed = probe_indices(len(risk.points))
    last = probed[-1:] if len(probed) > 1 and risk.layout.size <= LARGE else []
    few = risk.select([*probed[:1], *last])
    reason = ""
    for precise in (in_float64, _as_it_is):
        try:
            with torch.random.fork_rng():
                outcome = _Door(risk, precise(few), outputs, targets).outcome()
        except Exception as error:  # noqa: BLE001 - the user's code may fail in float64, or in a copy
            reason = f"derivatives could not be compared with differences ({error})".split("\n")[0]
            if is_out_of_memory(error) or risk.weights.dtype == torch.float64:
                break
            continue
        if isinstance(outcome, ValueError):
            raise outcome
        return outcome
    return Premise("derivative", Outcome.UNCHECKED, reason)


def unverified() -> Premise:
    """The premise of a problem that was built without the comparison."""
    return Premise(
        "derivative", Outcome.UNCHECKED, "derivatives were not verified (verify_derivatives=False)"
    )


def _as_it_is(risk: EmpiricalRisk) -> EmpiricalRisk:
    return risk


@dataclass(frozen=True, eq=False)
class _Door:
    """The comparison for one risk, on a few of its points in some precision."""

    risk: EmpiricalRisk
    few: EmpiricalRisk
    outputs: Tensor
    targets: Tensor

    @cached_property
    def model(self) -> nn.Module | None:
        """A copy of the module in the precision of the comparison; ``None`` if it cannot be copied."""
        try:
            return copy_of(self.risk.model).to(self.few.weights.dtype)
        except TypeError:
            return None

    @cached_property
    def probe(self) -> Probe:
        """The outputs as a function of the weights and the features."""
        few, (inputs, _) = self.few, self.few.points[range(len(self.few.points))]

        def graph(leaves: Sequence[Tensor]) -> Tensor:
            return flat_rows(few.forward(leaves[:-1], few.points.with_features(inputs, leaves[-1])))

        values = [*few.layout.split(few.weights), few.points.features_in(inputs)]
        call = on_leaves(graph) if self.model is None else _owners_call(self.model, few, inputs)
        return Probe(values, graph, call, len(values) - 1)

    def _place(self, *, is_second: bool) -> str:
        """Where the fault lies."""
        if self.model is None:
            return type(self.risk.model).__name__
        return culprit(self.model, lambda: self.probe.call(self.probe.values), is_second=is_second)

    def outcome(self) -> Premise | ValueError:
        """The premise for model and loss, or the error that refuses one of them."""
        ids = stepping_features(self.probe)
        direction = self._direction(0, ids)
        whole = Comparison(self.probe, direction)
        verdicts = [whole.first]
        if verdicts != [Verdict.RIGHT]:
            verdicts = [self._of_weights(direction), self._of_inputs(direction)]
            if verdicts[1] is Verdict.JUMPS:
                ids = [*ids, *jumping_features(self.probe, direction[-1])]
                flat_rows(direction[-1])[:, ids] = 0.0
                whole = Comparison(self.probe, direction)
                verdicts[1] = self._of_inputs(direction)
        if FAULTS.intersection(verdicts):
            return self._refusal("inputs" if verdicts[0] not in FAULTS else "weights")
        loss = self._loss_probe()
        losses = [] if loss is None else [loss.first]
        if FAULTS.intersection(losses):
            return _loss_refusal()
        verdicts += [*losses, *self._second_verdicts(whole, loss)]
        if whole.second in FAULTS and self._again(ids) in FAULTS:
            return self._refusal("weights")
        return _premise(verdicts, ids)

    def _again(self, ids: Sequence[int]) -> Verdict:
        """The verdict on the first derivative in another direction, where a fault was too small in one."""
        return Comparison(self.probe, self._direction(2, ids)).first

    def _direction(self, seed: int, ids: Sequence[int]) -> Sequence[Tensor]:
        """A random direction without what does not move: ids, and the rows of tokens that fill up."""
        direction = self.probe.direction(seed)
        flat_rows(direction[-1])[:, ids] = 0.0
        held = filling_rows(self.risk.model)
        for name, part in zip(self.risk.layout.shapes, direction, strict=False):
            if name in held:
                part[held[name]] = 0.0
        return direction

    def _of_weights(self, direction: Sequence[Tensor]) -> Verdict:
        still = [*direction[:-1], torch.zeros_like(direction[-1])]
        return Comparison(self.probe, still).first

    def _of_inputs(self, direction: Sequence[Tensor]) -> Verdict:
        still = [*(torch.zeros_like(part) for part in direction[:-1]), direction[-1]]
        return Comparison(self.probe, still).first

    def _second_verdicts(self, model: Comparison, loss: Comparison | None) -> list[Verdict]:
        """The verdicts on second derivatives, whose route changes where they are wrong or missing."""
        verdicts = [model.second] if loss is None else [model.second, loss.second]
        if verdicts[0] in FAULTS:
            place = self._place(is_second=True)
            take_differences(self.risk, f"autograd's are {verdicts[0]} in {place}")
        if verdicts[-1] in FAULTS and loss is not None:
            take_differences(self.risk, f"autograd's are {verdicts[-1]} in the loss")
            self.risk.routes.loss = "differences"
        return verdicts

    def _loss_probe(self) -> Comparison | None:
        """The loss as a function of some outputs of other points; ``None`` if it fails there."""
        loss, count = self.few.loss, len(self.outputs)
        places = list(range(count)) if self.few.is_whole else probe_indices(count)
        outputs = self.outputs.roll(len(self.outputs) // 2, dims=0)[places].to(self.few.weights.dtype)
        targets = self.targets[places]
        if targets.is_floating_point():
            targets = targets.to(torch.promote_types(targets.dtype, outputs.dtype))

        def graph(leaves: Sequence[Tensor]) -> Tensor:
            return loss(leaves[0], targets).reshape(1)

        probe = Probe([outputs], graph, on_leaves(graph), 1)
        try:
            is_finite = all(bool(torch.isfinite(slope).all()) for slope in probe.slopes)
        except Exception:  # noqa: BLE001 - a loss that takes no few points or no float64 is another check's matter
            return None
        return Comparison(probe, probe.direction(0)) if is_finite else None

    def _refusal(self, of: str) -> ValueError:
        cure = (
            "Straight-through, detached, clipped and reversed gradients are those of no risk; "
            if of == "weights"
            else "Freeze layers with requires_grad_(False), not with no_grad(), detach() or NumPy inside; "
        )
        return bad_value(
            "model",
            expected="one whose derivatives by autograd are those of its outputs",
            got=f"others in the {of}, by differences of the outputs; "
            f"the fault lies in {self._place(is_second=False)}",
            cure=f"{cure}verify_derivatives=False takes autograd's derivatives all the same.",
        )


def _owners_call(model: nn.Module, few: EmpiricalRisk, inputs: Tensor) -> Call:
    """A call of a module with weights set in it, as its owner does."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    moving, before = [state[name] for name in few.layout.shapes], {k: v.clone() for k, v in state.items()}

    def call(values: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(before[name])
            for parameter, value in zip(moving, values, strict=False):
                parameter.copy_(value)
        leaf = values[-1].detach().clone().requires_grad_()
        batch = few.points.with_features(inputs, leaf)
        outputs = few.door.tensor(few.door.call(model, state, few.points, batch), len(batch))
        return flat_rows(outputs), [*moving, leaf]

    return call


def _loss_refusal() -> ValueError:
    return bad_value(
        "loss",
        expected="one whose derivative by autograd is that of its values",
        got="another one, by differences of the loss on two points",
        cure="Look for detach(), no_grad() or NumPy in the loss; weights of points belong to the targets. A "
        "loss of log-probabilities, such as CTC, has the log_softmax in it and not in the model.",
    )


def _premise(verdicts: Sequence[Verdict], ids: Sequence[int]) -> Premise:
    if ids:
        reason = (
            f"features {sorted(set(ids))[:5]} of the inputs hold ids or steps, where outputs jump and "
            f"derivatives are 0: only changes that leave them as they are can be estimated"
        )
        return Premise("derivative", Outcome.FAILED, reason)
    if Verdict.UNKNOWN in verdicts:
        reason = "derivatives to the two sides differ at the points that were compared"
        return Premise("derivative", Outcome.UNCHECKED, reason)
    return Premise("derivative", Outcome.HELD)
