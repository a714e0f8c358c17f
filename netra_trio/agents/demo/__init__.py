"""The demo agents, which are served if no agent is configured."""
