"""Courses: the weights on the way from the trained point, station by station, and where training ended."""

from solset.courses._checkpoint import CourseFile
from solset.courses._course import Course, Station, StopReason
from solset.courses._multistep import Correction, Slopes
from solset.courses._retrained import Retrained
from solset.courses._state import Ending, Meter, State, course_of, stated_losses

__all__ = [
    "Correction",
    "Course",
    "CourseFile",
    "Ending",
    "Meter",
    "Retrained",
    "Slopes",
    "State",
    "Station",
    "StopReason",
    "course_of",
    "stated_losses",
]
