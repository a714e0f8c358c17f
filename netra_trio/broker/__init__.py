"""The broker: the state that the nodes share, apart from the store."""
