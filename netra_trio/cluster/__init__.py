"""The cluster: what one node does so that several nodes serve the same sessions."""
