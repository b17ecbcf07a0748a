"""Processes of this machine that work on one problem, as torchrun starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """One thread each, and the tests on the path."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


def launcher(processes: int, *command: str) -> list[str]:
    """The command line of torchrun for a script, or for ``-m`` and a module."""
    options = ["--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, "-m", "torch.distributed.run", *options, *command]


def torchrun(
    processes: int, *command: str, timeout: float = 240.0, **more: str
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        launcher(processes, *command),
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def separately(
    processes: int, *command: str, timeout: float = 60.0, **more: str
) -> list[subprocess.CompletedProcess[str]]:
    """Runs them with nobody over them who ends the others when one fails; by rank."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = str(door.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **place, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    found = []
    for process in started:
        out, err = process.communicate(timeout=timeout)
        found.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return found
