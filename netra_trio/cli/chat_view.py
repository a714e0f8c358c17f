"""The view of the chat: it shows events on the screen."""

from typing import Any

import orjson
from attrs import define

from netra_trio.cli.terminal import Screen
from netra_trio.client import Event

SHOWN_CHARACTERS = 200  # of the arguments and the result of a tool

_CONNECTED = {
    "new": "Connected.",
    "exact": "Connected again; nothing was missed.",
    "gap": "Connected again; some events were missed.",
    "reset": "Connected again; the server has lost this session and begun a new one.",
}
_ENDS = {
    "interrupted": "(interrupted: the server ended before the answer did; ask again)",
}


@define
class ChatView:
    """Shows the events of runs, and the state of the connection."""

    screen: Screen

    def show_connected(self, verdict: str) -> None:
        """Show that the connection is back."""
        self.screen.note(_CONNECTED[verdict])

    def show(self, event: Event) -> None:
        """Show an event of a run."""
        payload = event.payload
        match event.type:
            case "agent_started" if payload["attempt"] > 1:
                self.screen.note(f"… trying again, attempt {payload['attempt']}")
            case "agent_thinking":
                self.screen.note(f"… {payload['thought']}")
            case "partial_result":
                self.screen.answer(payload["content"])
            case "tool_executing":
                self.screen.note(f"[{payload['tool_name']}] {_short(payload['arguments'])}")
            case "tool_completed":
                outcome = payload["result"] if payload["success"] else payload["error"]
                self.screen.note(f"[{payload['tool_name']}] → {_short(outcome)}")
            case "gap" if "content" in payload:
                self.screen.note("… the answer so far:")
                self.screen.answer(payload["content"])
            case "agent_completed":
                self._show_end(payload)
            case "usage_warning":
                percent = 100 * payload["used"] // payload["limit"]
                name = payload["agent_name"]
                self.screen.note(f"{percent:g} % of today's budget of {name} is used.")
            case "lost":
                self.screen.fault(f"The end of the run is unknown: {payload['reason']}.")

    def _show_end(self, payload: dict[str, Any]) -> None:
        self.screen.end()
        if "error" in payload:
            error = payload["error"]
            error_id = f" ({error['error_id']})" if "error_id" in error else ""
            self.screen.fault(f"{error['error']} {error['help']}{error_id}")
        elif payload["status"] != "completed":
            self.screen.note(_ENDS.get(payload["status"], f"({payload['status']})"))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
