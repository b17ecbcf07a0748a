"""Points that are left out: each by itself, and for good."""

from solset.removal._forget import Forgotten, forget
from solset.removal._leave_one_out import LeaveOneOut, leave_one_out

__all__ = ["Forgotten", "LeaveOneOut", "forget", "leave_one_out"]
