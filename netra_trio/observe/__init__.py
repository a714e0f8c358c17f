"""Where the server shows what it does: one sink per file."""
