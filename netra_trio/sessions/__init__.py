"""Sessions: logical connections that outlive their sockets."""
