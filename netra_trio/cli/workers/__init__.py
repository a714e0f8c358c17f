"""Several processes of one server: `serve --workers` and `serve --reload`."""
