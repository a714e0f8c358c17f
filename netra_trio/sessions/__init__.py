"""Sessions: logical connections that outlive their WebSocket connections."""
