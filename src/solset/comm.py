"""Several processes at work on one problem: the only user of ``torch.distributed``.

Every process holds the same model, weights and data, and makes the same calls in the same order, as
``torchrun`` starts them. Sums and lists over training points are computed share by share and put together
here, so that every process has every result. The caller need not know that there is a second process.
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
    """The number of processes that share the work; 1 without a process group, and inside :func:`alone`."""
    if _alone.get() or not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def neighbours() -> int:
    """The number of processes on this machine, this one included; all processes where it is not stated."""
    return max(1, min(size(), int(os.environ.get("LOCAL_WORLD_SIZE", size()))))


def rank() -> int:
    """The number of this process, counted from 0."""
    return 0 if size() == 1 else dist.get_rank()


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Lets this process work by itself inside the block, for a call that not all processes make."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def share(count: int) -> range:
    """The range of ``count`` items that belongs to this process; the ranges follow in the order of ranks.

    Args:
        count: Number of all items; the parts differ by at most one item.
    """
    here, all_of_them = rank(), size()
    return range(here * count // all_of_them, (here + 1) * count // all_of_them)


def total(part: Tensor) -> Tensor:
    """The sum of the parts of all processes, bit for bit the same in each.

    Args:
        part: Tensor to add up, of the same shape in every process.

    Raises:
        ProcessError: If another process ended, raised or stalled; names it.
    """
    if size() == 1:
        return part
    summed = _on_wire(part.detach()).clone().contiguous()
    with _collective("a sum over the training points"):
        dist.all_reduce(summed)
    return summed.to(part.device)


def join(part: Tensor | None, *, device: torch.device | str = "cpu") -> Tensor:
    """The parts of all processes one after another along the first dimension.

    Args:
        part: Tensor ``(k, ...)`` of this process, where only ``k`` may differ; ``None`` for no rows at all.
        device: Device of the joined tensor; the CPU by default.

    Raises:
        ProcessError: If another process ended, raised or stalled; names it.
        ValueError: If no process has any rows.
    """
    if size() == 1 and part is not None:
        return part
    heads = [[-1]] if size() == 1 else _heads(part)
    filled = [head for head in heads if head[0] >= 0]
    if not filled:
        raise bad_value("part", expected="something to join", got="nothing", cure="Ask for some points.")
    dtype, shape = _DTYPES[filled[0][0]], filled[0][3 : 2 + filled[0][1]]
    row = dtype.itemsize * prod(shape)
    padded = torch.zeros(max(head[2] for head in filled) * row, dtype=torch.uint8)
    if part is not None:
        flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        padded[: len(flat)] = flat
    padded = _on_wire(padded)
    parts = [torch.empty_like(padded) for _ in heads]
    with _collective("results of the training points"):
        dist.all_gather(parts, padded)
    cut = [received[: max(head[2], 0) * row].cpu() for received, head in zip(parts, heads, strict=True)]
    return torch.cat(cut).view(dtype).reshape(-1, *shape).to(device)


def _heads(part: Tensor | None) -> list[list[int]]:
    """The dtype, dimensions and shape of every process's part; -1 where a process has no part."""
    head = torch.full((_DIMENSIONS + 2,), -1, dtype=torch.int64)
    if part is not None:
        about = [_DTYPES.index(part.dtype), part.ndim, *part.shape]
        head[: len(about)] = torch.tensor(about)
    head = _on_wire(head)
    heads = [torch.empty_like(head) for _ in range(size())]
    with _collective("sizes of results"):
        dist.all_gather(heads, head)
    return [each.tolist() for each in heads]


def from_first(read: Callable[[], bytes | None]) -> bytes | None:
    """The bytes that the first process reads, in every process; an error there is raised in all.

    Args:
        read: Function that reads; it is called in the first process only.
    """
    if size() == 1:
        return read()
    message = b""
    failure: Exception | None = None
    if is_first():
        try:
            with alone():
                content = read()
            message = b"0" if content is None else b"1" + content
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
    content = torch.zeros(int(length), dtype=torch.uint8)
    if is_first():
        content = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    content = _on_wire(content)
    with _collective("what the first process has read"):
        dist.broadcast(content, 0)
    return content.cpu().numpy().tobytes()


def require_same(name: str, text: str) -> None:
    """Refuses to start where processes hold different things.

    Args:
        name: Name of the argument, for the message.
        text: Description of everything that must be the same.

    Raises:
        ValueError: If the text differs from that of the first process; names the ranks.
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

    Threads of gloo may abort an interpreter that ends in the ordinary way, and the finished job would count
    as failed. So the functions registered with ``atexit`` run, and then the process ends at once.

    Args:
        status: Exit status of the process; 0 where all went well.
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
    """The number of exchanges that this process has begun."""

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
    return dist.distributed_c10d._get_default_store()  # PyTorch has no public function for it


def _missing(store: "Store | None", fate: str) -> str:
    """A sentence that names the process the others wait for, and says what became of it."""
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
    """The tensor on a device that the backend can send from."""
    return tensor.cuda() if dist.get_backend() == "nccl" else tensor
