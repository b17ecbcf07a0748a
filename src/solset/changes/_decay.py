"""The weight decay of the training changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.changes._change import Change, TrainingChange
from solset.checks import require
from solset.errors import bad_value
from solset.linalg import DenseOperator, LinearOperator, Space
from solset.risk import EmpiricalRisk, matches, one_number


@dataclass(frozen=True, eq=False)
class Decay(Change):
    """The factor ``λ`` of the weight decay changes: ``λ`` becomes ``λ + dλ``.

    The gradient of the risk changes by ``dλ w``. Solutions of the interpolating map know no decay.

    Attributes:
        change: Change ``dλ`` of the factor, one number for all weights that decay; or one for each group of
            weights, ``{"*.bias": 0.0, "*": 1e-3}``, of which the first pattern that matches a name counts.

    Example:
        >>> Decay(1e-3)
        Decay(0.001)
    """

    change: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        require(
            "change", self.change, float | Mapping[str, float], cure="Pass one number, or one by pattern."
        )

    def chosen(self, risk: EmpiricalRisk) -> list[int]:  # noqa: ARG002
        """No training point changes; argument as for every change."""
        return []

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """The weights of each group as a column; arguments as for every change."""
        return DenseOperator(self._groups(risk) * risk.weights.unsqueeze(1))

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """Refuses: fitted outputs know no decay; arguments as for every change."""
        raise bad_value(
            "optimality",
            expected="'stationary' or 'gauss_newton' for a change of the weight decay",
            got="'interpolating', which is taken for fitted data unless a map is named",
            cure="With weight decay the training outputs are not kept.",
        )

    def space(self, risk: EmpiricalRisk) -> Space:
        """One number per group; argument as for every change."""
        return Space("change", (len(self._changes),), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """The changes of the factors; argument as for every change."""
        self._decay(risk, 1.0)
        return torch.tensor(self._changes, dtype=risk.weights.dtype, device=risk.weights.device)

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk with the new weight decay; argument as for every change."""
        return self.partly(risk, 1.0)

    def partly(
        self,
        risk: EmpiricalRisk,
        share: float,
        base: EmpiricalRisk | None = None,  # noqa: ARG002
    ) -> EmpiricalRisk:
        """The risk with a weight decay on its way; arguments as for every change."""
        return replace(risk, weight_decay=self._decay(risk, share))

    def along(self, risk: EmpiricalRisk, coordinates: Tensor) -> Change:  # noqa: ARG002
        """Another change of the factors of the same groups; arguments as for every change."""
        steps = coordinates.tolist()
        if isinstance(self.change, Mapping):
            return Decay(dict(zip(self.change, steps, strict=True)))
        return Decay(steps[0])

    def typical(self, risk: EmpiricalRisk) -> Tensor:
        """The smallest factor of the weights of each group; argument as for every change."""
        groups, decay = self._groups(risk) > 0, torch.as_tensor(risk.weight_decay).to(risk.weights)
        decays = decay.expand(risk.layout.size)
        return torch.stack([decays[group].min() if bool(group.any()) else decays.max() for group in groups.T])

    def outputs_after(self, risk: EmpiricalRisk) -> Tensor:
        """Refuses, as outputs are not kept; argument as for every change."""
        self.of_outputs(risk, 0)
        return risk.outputs()

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """The change of the optimizer's weight decay; arguments as for every change."""
        return TrainingChange(decays=(self.change,))

    @property
    def _changes(self) -> list[float]:
        return list(self.change.values()) if isinstance(self.change, Mapping) else [float(self.change)]

    def _decay(self, risk: EmpiricalRisk, share: float) -> float | Tensor:
        step = self._groups(risk) @ torch.tensor(self._changes, dtype=torch.float64).to(risk.weights)
        decay = torch.as_tensor(risk.weight_decay, dtype=torch.float64).to(risk.weights) + share * step
        if not bool((torch.isfinite(decay) & (decay >= 0)).all()):
            raise bad_value(
                "change",
                expected="such that no weight decay is negative or infinite afterwards",
                got=f"{self.change}, after which one is {float(decay.min()):g}",
                cure="The weight decay changes by this much; it does not become it.",
            )
        return one_number(decay)

    def _groups(self, risk: EmpiricalRisk) -> Tensor:
        """A column for each group, with 1 for its weights, ``(p, groups)``."""
        if not risk.has_decay:
            raise bad_value(
                "change",
                expected="a change of something else, since the weights of this problem do not decay",
                got=repr(self),
                cure="Pass the weight_decay of the training to the problem.",
            )
        if not isinstance(self.change, Mapping):
            decays = torch.as_tensor(risk.weight_decay > 0, device=risk.weights.device)
            return decays.expand(risk.layout.size).to(risk.weights).unsqueeze(1)
        left, shapes, columns = set(risk.layout.shapes), risk.layout.shapes, []
        for pattern in self.change:
            if not any(matches(name, pattern) for name in shapes):
                names = ", ".join(shapes)
                cure = f"The names are: {names}."
                raise bad_value(
                    "change", expected="patterns that match a weight", got=repr(pattern), cure=cure
                )
            named = {name for name in left if matches(name, pattern)}
            left -= named
            parts = [torch.full(shape, float(name in named)) for name, shape in shapes.items()]
            columns.append(risk.layout.join(parts).to(risk.weights))
        return torch.stack(columns, dim=1)

    def __repr__(self) -> str:
        return f"Decay({self.change})"
