"""The doors: other protocols through which clients reach the agents. Each is off by default.

>>> sorted(DOOR_PATHS["events"])
['messages', 'stream']
"""

from collections.abc import Mapping

OPENAI, VERCEL, AG_UI, EVENTS = "openai", "vercel", "ag-ui", "events"

DOOR_PATHS: Mapping[str, Mapping[str, str]] = {
    OPENAI: {"chat_completions": "/v1/chat/completions", "models": "/v1/models"},
    VERCEL: {
        "chat": "/api/chat",
        "stream": "/api/chat/{chat_id}/stream",
        "stop": "/api/chat/{chat_id}/stop",
    },
    AG_UI: {"stop": "/ag-ui/{agent}/stop", "agent": "/ag-ui/{agent}"},
    EVENTS: {"stream": "/ws/events", "messages": "/ws/messages"},
}
"""The paths of each door, by their names in `/ws/config`; a path with braces is a pattern.

The first pattern that matches counts.
"""
