"""Large perturbations: the path of the solution over a change of the data."""

from solset.courses import Course, Station, StopReason
from solset.paths._follow import check_path, follow_path
from solset.paths._stepper import PathOptions

__all__ = ["Course", "PathOptions", "Station", "StopReason", "check_path", "follow_path"]
