"""The directory and the broker on Valkey or Redis."""
