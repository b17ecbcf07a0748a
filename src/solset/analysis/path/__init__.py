"""Large perturbations: the path of the solution set, and what retraining reaches."""

from solset.analysis.path.course import Course, Station, StopReason
from solset.analysis.path.follow import follow_path
from solset.analysis.path.retraining import follow_retraining

__all__ = ["Course", "Station", "StopReason", "follow_path", "follow_retraining"]
