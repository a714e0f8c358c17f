"""One nursery per socket: a reader, a writer and a heartbeat."""
