"""The doors: other protocols through which clients reach the agents, over the same sessions."""
