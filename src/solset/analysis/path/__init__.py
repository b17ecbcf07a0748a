"""Large perturbations: the path of the solution set, and what retraining reaches."""

from solset.analysis.path.course import Course, Station, StopReason
from solset.analysis.path.follow import check_path, follow_path
from solset.analysis.path.retraining import follow_retraining

__all__ = ["Course", "Station", "StopReason", "check_path", "follow_path", "follow_retraining"]
