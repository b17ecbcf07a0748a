"""What a call will need, before anything runs."""

from solset.operators import Cost
from solset.planning._plan import plan
from solset.planning._result import Kept, Memory, Plan, Route

__all__ = ["Cost", "Kept", "Memory", "Plan", "Route", "plan"]
