"""Several processes at work on one problem: the only user of ``torch.distributed``.

Every process holds the same model, weights and data, and makes the same calls in the same order, as
``torchrun`` starts them. Sums and lists over training points are computed share by share and put together
here, so that every process has every result. The caller need not know that there is a second process.
"""

import atexit
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from solset.errors import ProcessError, bad_value

if TYPE_CHECKING:  # at run time it is there only where PyTorch was built with it
    from torch._C._distributed_c10d import Store

_alone: ContextVar[bool] = ContextVar("alone", default=False)
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
    """The range of ``count`` items that belongs to this process, in the order of ranks.

    The parts differ by at most one item.
    """
    here, all_of_them = rank(), size()
    return range(here * count // all_of_them, (here + 1) * count // all_of_them)


def total(part: Tensor) -> Tensor:
    """The sum of the parts of all processes, bit for bit the same in each.

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
    parts: list[Tensor | None] = [None] * size()
    if size() > 1:
        with _collective("results of the training points"):
            # A copy: of a view all that it is a view of would be sent.
            dist.all_gather_object(parts, None if part is None else part.detach().cpu().clone())
    received = [each for each in parts if each is not None]
    if not received:
        raise bad_value("part", expected="something to join", got="nothing", cure="Ask for some points.")
    return torch.cat(received).to(device)


def from_first(read: Callable[[], bytes | None]) -> bytes | None:
    """The bytes that ``read`` returns in the first process, in every process; an error is raised in all."""
    if size() == 1:
        return read()
    answer: list[Any] = [None]
    failure: Exception | None = None
    if is_first():
        try:
            with alone():
                answer = [("", read())]
        except (ValueError, TypeError, OSError) as error:
            failure, answer = error, [(type(error).__name__, str(error))]
    with _collective("what the first process has read"):
        dist.broadcast_object_list(answer, 0)
    if failure is not None:
        raise failure
    kind, content = answer[0]
    if kind:
        raise _KINDS.get(kind, OSError)(content)
    return content


def require_same(name: str, text_of: Callable[[], str]) -> None:
    """Refuses to start where processes hold different things, by a text of all that must be the same.

    ``name`` is that of the argument in the message, which names the ranks that differ from the first.
    ``text_of`` is called where there are several processes.
    """
    if size() == 1:
        return
    mark = torch.frombuffer(bytearray(hashlib.sha256(text_of().encode()).digest()), dtype=torch.uint8)
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

    A process that is silent for ``timeout`` seconds counts as lost.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if started and dist.is_available() and not dist.is_initialized():
        dist.init_process_group(timeout=timedelta(seconds=timeout))


def finish(status: int) -> NoReturn:
    """Ends this process, after the others where it is one of several and all went well.

    Threads of gloo may abort an interpreter that ends in the ordinary way, and the finished job would count
    as failed. So the functions registered with ``atexit`` run, and then the process ends at once.
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
