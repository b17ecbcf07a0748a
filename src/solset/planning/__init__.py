"""What a call will need, before anything runs."""

from solset.planning._plan import plan
from solset.planning._result import Cost, Kept, Memory, Plan, Route

__all__ = ["Cost", "Kept", "Memory", "Plan", "Route", "plan"]
