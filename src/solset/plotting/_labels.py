"""Where to write the names of lines so that they cover neither lines nor each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_CHARACTER, _HEIGHT = 5.7, 12.5  # points, of the style's font
_NEAR = 60.0  # points; ends this close across share one stack of names


@dataclass(frozen=True)
class LabelPlace:
    """The place of a name beside its line."""

    offset: tuple[float, float]  # Distance from the line's last point, in points, to the right and up
    alignment: str  # Side of the text that the offset leads to, as in Matplotlib


# In the order of preference: beside the point, then above or below the line's own end, then further off.
_MOVES = (
    *((9.0, rise, "left") for rise in (0.0, 7.0, -7.0, 13.0, -13.0)),
    *((4.0, rise, "right") for rise in (10.0, -10.0, 16.0, -16.0)),
    *((9.0, rise, "left") for rise in (20.0, -20.0, 26.0, -26.0)),
)


def label_places(lines: Mapping[str, Float[np.ndarray, "_ 2"]]) -> dict[str, LabelPlace]:
    """For every line, the place beside its last point where its name covers least.

    Notes:
        Names are placed in turn, the highest first; this is a heuristic and not the best arrangement.
    """
    ink = np.concatenate([_sampled(corners) for corners in lines.values()])
    base = _stacked({label: corners[-1] for label, corners in lines.items()})
    boxes: list[Float[np.ndarray, "2 2"]] = []
    chosen = {}
    for label in sorted(lines, key=lambda name: -lines[name][-1, 1]):
        places = [LabelPlace((right, base[label] + rise), side) for right, rise, side in _MOVES]
        candidates = [_box(label, lines[label][-1], place) for place in places]
        covered = [
            1000 * sum(_overlap(box, other) for other in boxes)
            + int(((ink > box[0]) & (ink < box[1])).all(axis=1).sum())
            for box in candidates
        ]
        best = int(np.argmin(covered))
        boxes.append(candidates[best])
        chosen[label] = places[best]
    return {label: chosen[label] for label in lines}


def _stacked(ends: Mapping[str, Float[np.ndarray, "2"]]) -> dict[str, float]:
    """How far each name rises from its point so that names of nearby ends stand in order, a line apart."""
    stacks: list[list[str]] = []
    for label in sorted(ends, key=lambda name: ends[name][1]):
        stacks.append([label])
        while len(stacks) > 1 and _touch(stacks[-2], stacks[-1], ends):
            stacks[-2:] = [stacks[-2] + stacks[-1]]
    return {
        label: float(_heights(stack, ends)[place] - ends[label][1])
        for stack in stacks
        for place, label in enumerate(stack)
    }


def _heights(stack: list[str], ends: Mapping[str, Float[np.ndarray, "2"]]) -> Float[np.ndarray, " k"]:
    if len(stack) == 1:
        return np.array([ends[stack[0]][1]])
    middle = np.mean([ends[label][1] for label in stack])
    return middle + _HEIGHT * (np.arange(len(stack)) - (len(stack) - 1) / 2)


def _touch(lower: list[str], upper: list[str], ends: Mapping[str, Float[np.ndarray, "2"]]) -> bool:
    across = [float(ends[label][0]) for label in lower + upper]
    gap = float(_heights(upper, ends)[0] - _heights(lower, ends)[-1])
    return max(across) - min(across) < _NEAR and gap < _HEIGHT


def _sampled(corners: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "s 2"]:
    along = np.linspace(0, len(corners) - 1, 60 * len(corners))
    return np.stack([np.interp(along, np.arange(len(corners)), column) for column in corners.T], axis=1)


def _box(label: str, end: Float[np.ndarray, "2"], place: LabelPlace) -> Float[np.ndarray, "2 2"]:
    """Lower left and upper right corner of the text."""
    width = _CHARACTER * len(label)
    left = end[0] + place.offset[0] - (width if place.alignment == "right" else 0.0)
    middle = end[1] + place.offset[1]
    # Half a point less than a line, so that names in a stack do not count as touching.
    half = _HEIGHT / 2 - 0.25
    return np.array([[left, middle - half], [left + width, middle + half]])


def _overlap(one: Float[np.ndarray, "2 2"], other: Float[np.ndarray, "2 2"]) -> bool:
    return bool((one[0] < other[1]).all() and (other[0] < one[1]).all())
