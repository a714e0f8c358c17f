"""The endpoints: what an HTTP or WebSocket request can reach."""
