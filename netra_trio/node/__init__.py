"""The node: the sessions and connections of one process."""
