"""Run by torchrun: one process fails in the way it is told to, while the others sum over their points."""

import os
import signal
import sys
import time

import torch

from solset import comm
from support.sharded import convolutional


def main(how: str, rank: int, stall: float) -> None:
    torch.set_num_threads(1)
    comm.launch(timeout=5.0)
    with comm.reporting():
        is_the_one = comm.rank() == rank
        problem, data = convolutional(9 if how == "differs" and is_the_one else 8)
        if is_the_one:
            match how:
                case "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "stalls":
                    time.sleep(stall)
                case "raises":
                    data.inputs[0 if rank == 0 else 7] = float("nan")
        problem.risk().gradient()
        print(f"rank {comm.rank()} went on", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
