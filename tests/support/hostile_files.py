"""Contents that no reader may crash on, run, or take for its own: malformed, damaged, and made to do harm."""

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

DAMAGES = 4  # truncations, and as many flipped bytes, of each valid file


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def hostile_contents(victim: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents, whatever the file is said to be."""
    harm = Harm(victim)
    yield "nothing", b""
    yield "text", b"years of work\n"
    yield "noise", random.Random(0).randbytes(3000)
    yield "zeros", bytes(4096)
    yield "pickle", pickle.dumps(harm)
    yield "old pickle", pickle.dumps(harm, protocol=0)
    yield "pickle in a torch file", _saved(lambda stream: torch.save({"w": harm}, stream))
    yield "pickle in an npz", _saved(lambda stream: np.savez(stream, images=np.array([harm], dtype=object)))
    yield "pickle in an npy", _saved(lambda stream: np.save(stream, np.array([harm], dtype=object)))
    yield "archive that leads outside", _zipped({"../../victim.npy": b"harm", "/victim.npy": b"harm"})
    yield "array of 10^15 numbers", _npz_of_shape("(1000000000000000,)")
    yield "array of negative size", _npz_of_shape("(-1, 32, 32, 3)")
    yield "array whose header is code", _npz_of_shape(f"__import__('os').mkdir({str(victim)!r})")
    yield "deep JSON", b"[" * 200_000
    yield "wide JSON", b"[" + b"0," * 100_000 + b"0]"
    yield "huge number", b"1" * 100_000
    yield (
        "JSON of other types",
        json.dumps({"format": 3, "files": "x", "settings": [], "versions": 1}).encode(),
    )
    yield "header longer than the file", (2**60).to_bytes(8, "little") + b'{"a":1}'
    yield "deep header", _headed("[" * 100_000)
    yield "header of other types", _headed('{"__metadata__":{"solset":{"format":1}},"w":[1]}')
    yield (
        "tensor behind the end",
        _headed('{"directions":{"dtype":"F64","shape":[1,2],"data_offsets":[0,9999]}}'),
    )
    yield "tensor of negative size", _headed('{"w":{"dtype":"F64","shape":[-1],"data_offsets":[0,8]}}')
    yield "tensors of somebody else", save({"mine": torch.full((2, 3), float("nan"))})


def damaged(valid: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Truncations and flipped bytes of a valid file, at random places."""
    dice = random.Random(seed)
    for _ in range(DAMAGES):
        length = dice.randrange(len(valid))
        yield f"the first {length} bytes", valid[:length]
    for _ in range(DAMAGES):
        place, bit = dice.randrange(len(valid)), dice.randrange(8)
        changed = bytearray(valid)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(changed)


def _saved(save_to) -> bytes:
    stream = io.BytesIO()
    save_to(stream)
    return stream.getvalue()


def _zipped(members: dict[str, bytes]) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return _saved(write)


def _npz_of_shape(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)
    return _zipped({"images.npy": array, "labels.npy": array})


def _headed(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + bytes(16)
