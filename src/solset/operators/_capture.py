"""Records which functions use the weights in a forward pass, on what input, and where in the graph.

A torch function mode around the call records them. No module gets a hook or an attribute, so nothing is left
behind if the model's forward method raises.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import unwrap
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name

from solset.operators._layer_rules import COMMUTATIVE, MATRIX_PRODUCT, RULES, TRANSPOSITIONS, Rule


@dataclass(frozen=True)
class Use:
    """One call of a function with a rule."""

    rule: Rule  # Rule for the per-sample gradients of the function's parameters
    arguments: Mapping[str, Any]  # Arguments of the call, by name
    parameters: Mapping[str, int]  # Index of a weight in the layout, for each argument that is a weight
    # Place of the output in the graph. An in-place activation overwrites the output, not its edge.
    edge: GradientEdge
    is_first: bool  # Whether no weight was used before this call, so that a backward pass may stop here

    def sample_bytes(self, name: str, gradient: Tensor) -> int:
        """Bytes that the gradient rule of an argument writes for one sample."""
        size = self.arguments[name].numel() * gradient.element_size()
        return size + self.rule.scratch(gradient, self.arguments)


class Capture(TorchFunctionMode):
    """A context in which every use of the weights is recorded.

    Attributes:
        uses: Calls of functions with a rule, in order.
        unruled: Names of functions that use a weight without a rule; empty if the rules cover the pass.
    """

    def __init__(self, leaves: Sequence[Tensor], count: int) -> None:
        super().__init__()
        self._count = count
        self._weights = {id(leaf): (index, False) for index, leaf in enumerate(leaves)}
        # They are kept alive, because the id of a deleted tensor may be used again.
        self._transposed: list[Tensor] = []
        self.uses: list[Use] = []
        self.unruled: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and records the call if it used a weight."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._uses_weights(args) or self._uses_weights(kwargs):
            self._record(unwrap(func), args, kwargs, result)  # an embedding may stand for PyTorch's own
        return result

    def _uses_weights(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return id(value) in self._weights
        if isinstance(value, Mapping):
            return any(self._uses_weights(item) for item in value.values())
        return isinstance(value, tuple | list) and any(self._uses_weights(item) for item in value)

    def _record(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        if not _requires_grad(result):
            return  # a shape, a type, or a value that no gradient goes through
        if func in TRANSPOSITIONS and args[0].ndim == 2 and isinstance(result, Tensor):
            index, is_transposed = self._weights[id(args[0])]
            self._weights[id(result)] = (index, not is_transposed)
            self._transposed.append(result)
            return
        use = self._as_use(func, args, kwargs, result)
        if use is None:
            self.unruled.append(resolve_name(func) or getattr(func, "__name__", str(func)))
        else:
            self.uses.append(use)

    def _as_use(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> Use | None:
        """The call with its rule; ``None`` if no rule covers it."""
        rule = RULES.get(func)
        if rule is None or not isinstance(result, Tensor):
            return None
        if func is Tensor.expand:
            args = (None, args[0])
        elif func in COMMUTATIVE and self._uses_weights(args[:1]):
            args = args[::-1]
        arguments = dict(zip(rule.names, args, strict=False))
        arguments |= {_ours(name): value for name, value in kwargs.items()}
        weights = {name: self._weights[id(v)] for name, v in arguments.items() if id(v) in self._weights}
        arguments["is_transposed"] = any(is_transposed for _, is_transposed in weights.values())
        is_regular = (
            {"inputs", "weight"} <= set(arguments) <= {*rule.names, "is_transposed"}
            and set(weights) <= set(rule.parameters)
            and (rule is MATRIX_PRODUCT or not arguments["is_transposed"])
        )
        if not is_regular or not rule.holds(arguments, result, self._count):
            return None
        free = {name: v.detach() if isinstance(v, Tensor) else v for name, v in arguments.items()}
        parameters = {name: index for name, (index, _) in weights.items()}
        return Use(rule, free, parameters, get_gradient_edge(result), not _requires_grad(arguments["inputs"]))


def _ours(name: str) -> str:
    return "inputs" if name in {"input", "self"} else "weight" if name == "other" else name


def _requires_grad(result: Any) -> bool:
    if isinstance(result, Tensor):
        return result.requires_grad
    return isinstance(result, tuple | list) and any(_requires_grad(item) for item in result)
