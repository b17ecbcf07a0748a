"""What a call will need, before anything runs."""

from solset.analysis.plan.plan import plan
from solset.analysis.plan.result import Cost, Kept, Memory, Plan, Route

__all__ = ["Cost", "Kept", "Memory", "Plan", "Route", "plan"]
