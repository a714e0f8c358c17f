"""The webhook for the ends and questions of runs that have left their session: `NOTIFY_WEBHOOK`."""
