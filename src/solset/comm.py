"""Several processes at work on one problem: the only user of ``torch.distributed``.

Every process holds the same model, weights and data, and makes the same calls in the same order, as
``torchrun`` starts them. What is a sum or a list over training points is computed share by share and put
together here, so that every process has every result; whoever asks for it need not know that there is
a second process.
"""

import atexit
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from solset.errors import ProcessError, bad_value

if TYPE_CHECKING:  # at run time it is there only where PyTorch was built with it
    from torch._C._distributed_c10d import Store

_alone: ContextVar[bool] = ContextVar("alone", default=False)
_DIMENSIONS = 8  # of a tensor that is joined, at most
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.int64,
    torch.bool,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int32,
    torch.int16,
    torch.int8,
)
_KINDS: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError}


def size() -> int:
    """How many processes share the work; 1 unless a process group was set up, or inside :func:`alone`."""
    if _alone.get() or not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def neighbours() -> int:
    """How many of them, this one among them, are on this machine; all of them, where nobody says."""
    return max(1, min(size(), int(os.environ.get("LOCAL_WORLD_SIZE", size()))))


def rank() -> int:
    """Which of them this is, from 0."""
    return 0 if size() == 1 else dist.get_rank()


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, whatever the others do: for a call that not all of them make."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def share(count: int) -> range:
    """The part of ``count`` things in a row that is this process's; the parts follow in the order of ranks.

    Args:
        count: How many there are; parts differ by one at most.
    """
    here, all_of_them = rank(), size()
    return range(here * count // all_of_them, (here + 1) * count // all_of_them)


def total(part: Tensor) -> Tensor:
    """The sum of the parts of all processes, bit for bit the same in each.

    Args:
        part: Of the same shape everywhere.

    Raises:
        ProcessError: If another process ended, raised or stalled; names it.
    """
    if size() == 1:
        return part
    found = _on_wire(part.detach()).clone().contiguous()
    with _collective("a sum over the training points"):
        dist.all_reduce(found)
    return found.to(part.device)


def join(part: Tensor | None, *, device: torch.device | str = "cpu") -> Tensor:
    """The parts of all processes one after another along the first dimension.

    Args:
        part: ``(k, ...)``, alike but for ``k``; ``None`` from a process that has nothing.
        device: Of the result.

    Raises:
        ProcessError: If another process ended, raised or stalled; names it.
        ValueError: If no process has anything.
    """
    if size() == 1 and part is not None:
        return part
    heads = [[-1]] if size() == 1 else _heads(part)
    filled = [head for head in heads if head[0] >= 0]
    if not filled:
        raise bad_value("part", expected="something to join", got="nothing", cure="Ask for some points.")
    dtype, shape = _DTYPES[filled[0][0]], filled[0][3 : 2 + filled[0][1]]
    row = dtype.itemsize * prod(shape)
    own = torch.zeros(max(head[2] for head in filled) * row, dtype=torch.uint8)
    if part is not None:
        flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        own[: len(flat)] = flat
    own = _on_wire(own)
    parts = [torch.empty_like(own) for _ in heads]
    with _collective("results of the training points"):
        dist.all_gather(parts, own)
    cut = [found[: max(head[2], 0) * row].cpu() for found, head in zip(parts, heads, strict=True)]
    return torch.cat(cut).view(dtype).reshape(-1, *shape).to(device)


def _heads(part: Tensor | None) -> list[list[int]]:
    """Of every process: dtype, dimensions and shape of its part; -1 where it has none."""
    head = torch.full((_DIMENSIONS + 2,), -1, dtype=torch.int64)
    if part is not None:
        about = [_DTYPES.index(part.dtype), part.ndim, *part.shape]
        head[: len(about)] = torch.tensor(about)
    head = _on_wire(head)
    heads = [torch.empty_like(head) for _ in range(size())]
    with _collective("sizes of results"):
        dist.all_gather(heads, head)
    return [found.tolist() for found in heads]


def from_first(read: Callable[[], bytes | None]) -> bytes | None:
    """What the first process reads, in every process; what it raises is raised in all.

    Args:
        read: Called in the first process only.
    """
    if size() == 1:
        return read()
    message = b""
    failure: Exception | None = None
    if is_first():
        try:
            with alone():
                found = read()
            message = b"0" if found is None else b"1" + found
        except (ValueError, TypeError, OSError) as error:
            failure = error
            message = b"2" + json.dumps([type(error).__name__, str(error)]).encode()
    message = _broadcast(message)
    if failure is not None:
        raise failure
    if message[:1] == b"2":
        kind, text = json.loads(message[1:])
        raise _KINDS.get(kind, OSError)(text)
    return None if message[:1] == b"0" else message[1:]


def _broadcast(message: bytes) -> bytes:
    length = _on_wire(torch.tensor([len(message)]))
    with _collective("what the first process has read"):
        dist.broadcast(length, 0)
    found = torch.zeros(int(length), dtype=torch.uint8)
    if is_first():
        found = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    found = _on_wire(found)
    with _collective("what the first process has read"):
        dist.broadcast(found, 0)
    return found.cpu().numpy().tobytes()


def require_same(name: str, text: str) -> None:
    """Refuses to start where processes hold different things.

    Args:
        name: Of the argument.
        text: Says all that must be the same.

    Raises:
        ValueError: If it differs from the first process's; names the ranks.
    """
    if size() == 1:
        return
    mark = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
    marks = join(mark.reshape(1, -1))
    unlike = [other for other in range(size()) if not torch.equal(marks[other], marks[0])]
    if unlike:
        raise bad_value(
            name,
            expected="the same in every process",
            got=f"another one in rank {', '.join(map(str, unlike))} than in rank 0",
            cure="Load the same weights and data everywhere; solset shares out the points by itself.",
        )


def launch(*, timeout: float = 1800.0) -> None:
    """Joins the processes that ``torchrun`` started, if it started this one.

    Args:
        timeout: Seconds to wait for another process before it counts as lost.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if started and dist.is_available() and not dist.is_initialized():
        dist.init_process_group(timeout=timedelta(seconds=timeout))


def finish(status: int) -> NoReturn:
    """Ends this process, after the others where it is one of several and all went well.

    An interpreter that winds down in the ordinary way may be aborted by the threads of gloo that outlive it,
    and the finished job would count as failed: so what is registered for the end is run, and that is all.

    Args:
        status: Of the process; 0 where all went well.
    """
    if size() == 1:
        sys.exit(status)
    if status == 0:
        with _collective("the end of the job"):  # who leaves first would cut off the others
            dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # files of rows are removed here
    os._exit(status)


@contextmanager
def reporting() -> Iterator[None]:
    """Tells the other processes why this one stops, if it does."""
    try:
        yield
    except ProcessError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if size() > 1 and (store := _store()) is not None:
            store.set(f"solset/failed/{rank()}", f"{type(error).__name__}: {error}"[:500])
        raise


@dataclass
class _Exchanges:
    """How many exchanges this process has begun."""

    begun: int = 0


_exchanges = _Exchanges()


@contextmanager
def _collective(what: str) -> Iterator[None]:
    """Counts the exchanges of this process where others see it, and names whoever misses one."""
    _exchanges.begun += 1
    store = _store()
    try:
        if store is not None:
            store.set(f"solset/step/{rank()}", str(_exchanges.begun))
        yield
    except RuntimeError as error:
        fate = "stalled beyond the timeout" if "timed out" in str(error).lower() else "ended"
        cause = _missing(store, fate)
        raise ProcessError(
            f"{cause}; rank {rank()} stopped while waiting for {what}. Finished stages of a run are kept: "
            f"start it again, with --resume"
        ) from error


def _store() -> "Store | None":
    return dist.distributed_c10d._get_default_store()  # there is no public door


def _missing(store: "Store | None", fate: str) -> str:
    """Which process the others wait for, and what it said or what became of it."""
    others = [other for other in range(size()) if other != rank()]
    try:
        for other in others:
            if store is not None and store.check([f"solset/failed/{other}"]):
                return f"rank {other} raised {store.get(f'solset/failed/{other}').decode()}"
        behind = [other for other in others if _begun_by(store, other) < _exchanges.begun]
    except RuntimeError:  # the store itself is gone with the process that kept it
        return f"rank 0 or its host {fate}"
    return f"rank {', '.join(map(str, behind or others))} {fate}"


def _begun_by(store: "Store | None", other: int) -> int:
    key = f"solset/step/{other}"
    return int(store.get(key)) if store is not None and store.check([key]) else 0


def _on_wire(tensor: Tensor) -> Tensor:
    """Where the backend can send it from."""
    return tensor.cuda() if dist.get_backend() == "nccl" else tensor
