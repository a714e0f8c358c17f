"""Agents: a run as its agent sees it, the execution of runs, and the resources of agents."""
