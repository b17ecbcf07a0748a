"""Large perturbations: the path of the solution set, and what retraining reaches."""

from solset.paths._course import Course, Station, StopReason
from solset.paths._follow import check_path, follow_path
from solset.paths._options import PathOptions
from solset.paths._retraining import follow_retraining

__all__ = ["Course", "PathOptions", "Station", "StopReason", "check_path", "follow_path", "follow_retraining"]
