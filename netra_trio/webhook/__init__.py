"""The webhook that is told of runs that have left their session: `NOTIFY_WEBHOOK`."""
