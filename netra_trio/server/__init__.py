"""The server process: the listener, the application and the host for HTTP."""
