"""Run by torchrun: computes everything and writes down what this process found."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from solset import comm
from support.sharded import everything, reads


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    comm.launch(timeout=120.0)
    with comm.reporting():
        found = {name: part.contiguous().clone() for name, part in everything().items()}
        save_file(found, folder / f"found_{comm.rank()}.safetensors")
        (folder / f"reads_{comm.rank()}.json").write_text(json.dumps(reads(3)))
    comm.finish(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
