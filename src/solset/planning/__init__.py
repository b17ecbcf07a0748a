"""The cost of a call in passes, gradients and bytes, counted before anything runs."""

from solset.operators import Cost
from solset.planning._plan import plan
from solset.planning._result import KeptGraphs, Memory, Plan, Route

__all__ = ["Cost", "KeptGraphs", "Memory", "Plan", "Route", "plan"]
