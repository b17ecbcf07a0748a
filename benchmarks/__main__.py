"""``python -m benchmarks [NAME] [--large] [--threads N] [--json FILE]``; no NAME: all but the two last."""

import argparse
import json
import platform
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks import accuracy, audit, costs, isolated, path, poisoning, resnet56, rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [
        *("all", "accuracy", "costs", "isolated", "path", "rows", "audit"),
        *("resnet56", "poisoning"),  # long, so only where they are asked for
    ]
    parser.add_argument("which", nargs="?", choices=names, default="all")
    parser.add_argument(
        "--large",
        action="store_true",
        help="ResNet56 too: some minutes and 4 GB more; with resnet56: also least squares on H",
    )
    parser.add_argument(
        "--threads", type=int, default=None, help="for torch and SciPy; their own choice by default"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the numbers to this file")
    chosen = parser.parse_args()
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
        threadpool_limits(chosen.threads)  # NumPy's and SciPy's too
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {platform.machine()}, {threads} threads; medians of one run\n")
    results: dict[str, object] = {"torch": torch.__version__, "threads": threads}
    if chosen.which in {"all", "accuracy"}:
        results["accuracy"] = accuracy.run()
    if chosen.which in {"all", "costs"}:
        results["costs"] = costs.run(large=chosen.large)
    if chosen.which in {"all", "isolated"}:
        results["isolated"] = isolated.run()
    if chosen.which in {"all", "path"}:
        results["path"] = path.run(None if chosen.json is None else chosen.json.with_suffix(".png"))
    if chosen.which in {"all", "rows"}:
        results["rows"] = rows.run(large=chosen.large)
    if chosen.which in {"all", "audit"}:
        results["audit"] = audit.run(large=chosen.large)
    if chosen.which == "resnet56":  # long, so only where it is asked for
        results["resnet56"] = resnet56.run(has_krylov=chosen.large)
    if chosen.which == "poisoning":
        results["poisoning"] = poisoning.run()
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
