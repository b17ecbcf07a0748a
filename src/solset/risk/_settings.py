"""What the modules of a model and its loss are set to: answers rest on it as they rest on the weights."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from solset.errors import bad_value
from solset.risk._called import WithLoss, written_by_calls
from solset.risk._losses import WholeBatch

FEW = 4096  # numbers of a tensor of a loss up to which they are compared whenever a model is called
_PLAIN = (bool, int, float, complex, str, type(None))
_MISSING = ...  # stays the same object where a problem is copied or pickled
_CURE = "Set it back, or build the problem again."


@dataclass(eq=False)
class _HeldTensor:
    """A tensor of a loss, and its values of the time when the problem was built."""

    tensor: Tensor
    version: int
    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> "_HeldTensor":
        return cls(tensor, _version(tensor), tensor.detach().clone())

    def is_still(self, present: Any) -> bool:
        """Whether a tensor has the values of then; large ones are read only if written to or replaced."""
        is_untouched = present is self.tensor and _version(present) == self.version >= 0
        if is_untouched and (present.numel() > FEW or present.device.type != "cpu"):
            return True  # a write through ``.data`` is not counted, and seen in few numbers only
        if not isinstance(present, Tensor) or present.shape != self.values.shape:
            return False
        like_then = present.detach().to(self.values.device, self.values.dtype)
        is_equal = bool(torch.isclose(like_then, self.values, rtol=0, atol=0, equal_nan=True).all())
        if is_equal:
            self.tensor, self.version = present, _version(present)
        return is_equal


@dataclass(eq=False)
class _ModuleSettings:
    """What one module was set to."""

    argument: str  # Argument of a problem that the module belongs to: ``"model"`` or ``"loss"``
    name: str  # Name of the module inside of that argument
    module: Any  # The module, or a loss that is another object
    mode: bool | None  # Its training flag; ``None`` where it does not matter
    parts: dict[str, nn.Module | None]  # Its submodules by name
    plain: dict[str, Any]  # Numbers, texts, flags, ``None``, and tuples or lists of them
    tensors: dict[str, _HeldTensor | None]  # Tensors that are read where it is called, but for those held

    def changes(self) -> Iterator[tuple[str, Any, Any]]:
        """Each attribute that is another one now, with what it was and what it is."""
        present = _attributes(self.module)
        if self.mode is not None and present["training"] is not self.mode:
            yield "training", self.mode, present["training"]
        parts = present.get("_modules", {})
        if parts != self.parts:
            for name in (*self.parts, *(name for name in parts if name not in self.parts)):
                old, new = self.parts.get(name, _MISSING), parts.get(name, _MISSING)
                if old is not new:
                    yield name, old, new
        for name, value in self.plain.items():
            now = present.get(name, _MISSING)
            if now is not value:
                now = getattr(type(self.module), name, _MISSING) if now is _MISSING else now
                if not _is_same(value, now):
                    yield name, value, now
        for name, held in self.tensors.items():
            now = _tensor_at(self.module, name)
            if (now is not None) if held is None else not held.is_still(now):
                yield name, None if held is None else held.values, now


@dataclass(frozen=True, eq=False)
class Settings:
    """What the modules of a model and its loss were set to when a problem was built; nothing by default.

    Attributes:
        modules: Settings of each module.
        left_out: Attributes that calls write, such as counters, as ``(argument, module, attribute)``.
    """

    modules: tuple[_ModuleSettings, ...] = ()
    left_out: frozenset[tuple[str, str, str]] = field(default_factory=frozenset)

    def of(self, model: nn.Module) -> "Settings":
        """The settings with those of another copy of the model; without any settings, still none."""
        if not self.modules:
            return self
        of_loss = [each for each in self.modules if each.argument == "loss"]
        return replace(self, modules=(*_of_model(model), *of_loss))

    def steady(self) -> "Settings":
        """The settings without the attributes that changed since, which the calls since have written."""
        return replace(self, left_out=self.left_out | {place for place, _, _, _ in self._changes()})

    def require_same(self) -> None:
        """Refuses modules that are set to something else now.

        Raises:
            ValueError: If any is; names the module and the attribute, and says what to do.
        """
        for (argument, _, attribute), each, old, new in self._changes():
            if attribute in written_by_calls(each.module):
                continue
            if attribute == "training":
                raise bad_value(
                    argument,
                    expected="in the mode in which the problem was built",
                    got="one whose modules were put into another mode since",
                    cure=f"Call {argument}.{'train' if old else 'eval'}(), or build the problem again.",
                )
            where = f" in '{each.name}'" if each.name else ""
            raise bad_value(
                argument,
                expected="set as it was when the problem was built",
                got=f"`{attribute}`{where} ({type(each.module).__name__}) = {_shown(new)}, "
                f"which was {_shown(old)}",
                cure=_CURE,
            )

    def _changes(self) -> Iterator[tuple[tuple[str, str, str], _ModuleSettings, Any, Any]]:
        for each in self.modules:
            for attribute, old, new in each.changes():
                place = (each.argument, each.name, attribute)
                if place not in self.left_out:
                    yield place, each, old, new


def settings_now(model: nn.Module, loss: Any) -> Settings:
    """What the modules of a model and its loss are set to now."""
    inner = loss.loss if isinstance(loss, WholeBatch) else loss
    is_learned = isinstance(model, WithLoss)
    network = model.network if is_learned else model
    shared = {id(value) for value in (*network.parameters(), *network.buffers(), *network.modules())}
    of_loss = []
    for name, module in _parts_of(inner, shared):
        mode, present = module.training if is_learned else None, _attributes(module)
        values = {key: value for key, value in present.items() if isinstance(value, Tensor)}
        values |= present.get("_buffers", {})
        values |= {} if is_learned else present.get("_parameters", {})  # those that move have copies
        values = {key: value for key, value in values.items() if id(value) not in shared}
        tensors = {key: None if value is None else _HeldTensor.of(value) for key, value in values.items()}
        of_loss.append(_settings_of("loss", name, module, mode, tensors))
    return Settings((*_of_model(model), *of_loss))


def _of_model(model: nn.Module) -> list[_ModuleSettings]:
    network, settings = model.network if isinstance(model, WithLoss) else model, []
    for name, module in network.named_modules():
        values = {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
        tensors = {key: _HeldTensor.of(value) for key, value in values.items() if not key.startswith("_")}
        settings.append(_settings_of("model", name, module, module.training, {**tensors}))
    return settings


def _parts_of(loss: Any, shared: set[int], name: str = "") -> Iterator[tuple[str, Any]]:
    """A loss with the modules and functions that it calls, each once by its name, and none of the model."""
    if id(loss) in shared:
        return
    if isinstance(loss, nn.Module):
        for path, module in loss.named_modules(prefix=name):
            shared.add(id(module))
            yield path, module
        return
    shared.add(id(loss))
    yield name, loss
    for key, value in _attributes(loss).items():
        if isinstance(value, nn.Module | FunctionType | partial):
            yield from _parts_of(value, shared, f"{name}.{key}" if name else key)


def _settings_of(
    argument: str, name: str, module: Any, mode: bool | None, tensors: dict[str, _HeldTensor | None]
) -> _ModuleSettings:
    present, plain = _attributes(module), {}
    for kind in reversed(type(module).__mro__):
        if kind not in nn.Module.__mro__:
            plain |= {key: value for key, value in vars(kind).items() if _is_setting(key, value)}
    plain = {key: value for key, value in plain.items() if key not in present}
    plain |= {key: value for key, value in present.items() if _is_setting(key, value)}
    plain = {key: copy.deepcopy(value) for key, value in plain.items()}  # a list may be written to
    return _ModuleSettings(argument, name, module, mode, dict(present.get("_modules", {})), plain, tensors)


def _attributes(module: Any) -> dict[str, Any]:
    """The attributes of a module; of a function what it reads from outside, by name."""
    if isinstance(module, partial):
        given = {f"argument {place}": value for place, value in enumerate(module.args)}
        return {"function": module.func, **given, **module.keywords}
    if isinstance(module, MethodType):
        return {"method": module.__func__, **vars(module.__self__)}
    return _read_by(module) if isinstance(module, FunctionType) else getattr(module, "__dict__", {})


def _read_by(function: FunctionType) -> dict[str, Any]:
    """The values that a function closes over, its defaults, and the global values that it names."""
    code, read = function.__code__, dict[str, Any]()
    for name in code.co_names:
        value = function.__globals__.get(name, _MISSING)
        is_near = isinstance(value, FunctionType) and value.__module__ == function.__module__
        if is_near or isinstance(value, Tensor | nn.Module) or _is_plain(value):
            read[name] = value
    for place, value in enumerate(function.__defaults__ or ()):
        read[code.co_varnames[code.co_argcount - len(function.__defaults__ or ()) + place]] = value
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a variable that has no value yet
            read[name] = cell.cell_contents
    return read


def _is_setting(name: str, value: Any) -> bool:
    return not name.startswith("_") and name != "training" and _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) <= FEW and all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _is_same(old: Any, new: Any) -> bool:
    """Whether two values are equal; two that are no numbers are."""
    return (_is_plain(new) and old == new) or (type(old) is type(new) and repr(old) == repr(new))


def _tensor_at(module: Any, name: str) -> Any:
    present = _attributes(module)
    for held in (present, present.get("_buffers", {}), present.get("_parameters", {})):
        if name in held:
            return held[name]
    return None


def _version(tensor: Tensor) -> int:
    """The number of writes to a tensor; -1 where PyTorch does not count them."""
    return -1 if tensor.is_inference() else tensor._version  # noqa: SLF001 - PyTorch has no other name


def _shown(value: Any) -> str:
    """A value in one short line."""
    if value is _MISSING:
        return "missing"
    if isinstance(value, Tensor) and value.numel() > 6:
        return f"a tensor {tuple(value.shape)} with other values"
    text = " ".join((f"{value.tolist()}" if isinstance(value, Tensor) else repr(value)).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
