"""Flat rows for tables and CSV files, with what the paper printed beside them."""

from collections.abc import Mapping
from typing import Any

Numbers = Mapping[str, Any]
Rows = list[dict[str, object]]

# Tables 1 and 3 of the paper: loss on the moved points at the trained weights, and at its estimate.
PAPER_MOVED = {1: (0.0041, 1.9e-5), 10: (0.0045, 6.2e-5)}
PAPER_STEPS = {0.005: (0.15, 0.005), 0.01: (1.19, 0.3), 0.02: (3.35, 1.9)}
PAPER_BESIDE = 0.002  # the step of ours that Table 1 is set beside


def table_1_rows(numbers: Numbers) -> Rows:
    """Each number of moved points at the three smallest steps."""
    rows: Rows = []
    for count, part in numbers["moved"].items():
        for row in sorted(part["sizes"], key=lambda row: row["size"])[:3]:
            paper = PAPER_MOVED.get(int(count)) if row["size"] == PAPER_BESIDE else None
            rows.append(
                {
                    "moved": int(count),
                    "step_percent": 100 * row["size"],
                    "trained": row["trained"]["moved"],
                    "estimate": row["estimate"]["moved"],
                    "all": row["estimate"]["all"],
                    "clean": part["clean"]["all"],
                    "paper_trained": paper[0] if paper else None,
                    "paper_estimate": paper[1] if paper else None,
                }
            )
    return rows


def retraining_rows(numbers: Numbers) -> Rows:
    """Estimate and retraining of each number of moved points."""
    rows: Rows = []
    for count, part in numbers["moved"].items():
        for name, ended in part.get("retraining", {}).items():
            if name in {"size", "trained"}:
                continue
            rows.append(
                {
                    "moved": int(count),
                    "method": name,
                    "gradients": ended.get("gradients"),
                    "relative_change": ended["relative_change"],
                    "cosine": ended.get("cosine"),
                    "loss_moved": ended["moved"],
                    "loss_all": ended["all"],
                    "output_change": ended["output_change"],
                }
            )
    return rows


def step_rows(numbers: Numbers) -> Rows:
    """Every step for the largest number of moved points."""
    count = max(numbers["moved"], key=int)
    rows: Rows = []
    for row in numbers["moved"][count]["sizes"]:
        paper = PAPER_STEPS.get(row["size"]) if int(count) == 10 else None
        rows.append(
            {
                "step_percent": 100 * row["size"],
                "perturbation": row["perturbation"],
                "distance": row["distance"],
                "sampled_distance": row["sampled_distance"],
                "relative_change": row["relative_change"],
                "trained": row["trained"]["moved"],
                "estimate": row["estimate"]["moved"],
                "samples": max((s["moved"] for s in row["samples"]), default=None),
                "all": row["estimate"]["all"],
                "change_moved": row["estimate"]["output_change_moved"],
                "change_all": row["estimate"]["output_change"],
                "paper_way": row["paper_way"]["moved"],
                "paper_way_all": row["paper_way"]["all"],
                "paper_trained": paper[0] if paper else None,
                "paper_estimate": paper[1] if paper else None,
            }
        )
    return rows


def accuracy_rows(numbers: Numbers) -> Rows:
    """The rows in use and what leaving the others out cost."""
    return [{"moved": int(count), **part["check"]} for count, part in numbers["moved"].items()]


def limit_rows(numbers: Numbers) -> Rows:
    """What the first order leaves out, for the largest number of moved points."""
    part = numbers["moved"][max(numbers["moved"], key=int)]
    return [{"step_percent": 100 * row["size"], **row["beyond_first_order"]} for row in part["sizes"]]
