"""The demo agents, which answer where no agent is given."""
