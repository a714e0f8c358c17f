"""Where users, threads, messages and runs are kept: one file per store."""
