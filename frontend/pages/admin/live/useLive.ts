// The nodes as they are now, from the room of the live page.

import { useEffect, useReducer } from "react";
import { roomKey, type RoomStatus } from "../../../src/index.ts";
import { useNetra, useNetraClient } from "../../../src/react/index.ts";
import { afterContent, afterPause, type Live, NOTHING, silentAt, withoutSilent } from "./state.ts";
import type { LiveContent } from "./types.ts";

const ROOM = "admin:live";
const KEY = roomKey({ kind: "room", room: ROOM, history: false });

interface State {
  readonly live: Live;
  /** When the newest part was received, in ms; null before the first one. */
  readonly updatedAt: number | null;
}

export interface LiveView extends State {
  readonly status: RoomStatus;
}

type Action =
  | { readonly kind: "content"; readonly content: LiveContent; readonly now: number }
  | { readonly kind: "connected" | "tick"; readonly now: number };

export function useLive(): LiveView {
  const client = useNetraClient();
  const isConnected = useNetra((netra) => netra.isConnected);
  const status = useNetra((netra) => netra.rooms.get(KEY)?.status ?? "joining");
  const [state, dispatch] = useReducer(reduce, { live: NOTHING, updatedAt: null });
  useEffect(() => {
    const end = client.subscribe("room_event", ({ payload: { room, event } }) => {
      if (room !== ROOM || event.type !== "room_message") return;
      const { content } = event.payload as { readonly content?: unknown };
      if (typeof content === "object" && content !== null && "kind" in content) {
        dispatch({ kind: "content", content: content as LiveContent, now: Date.now() });
      }
    });
    const leave = client.joinRoom(ROOM);
    return () => {
      leave();
      end();
    };
  }, [client]);
  useEffect(() => {
    if (isConnected) dispatch({ kind: "connected", now: Date.now() });
  }, [isConnected]);
  // While the page itself has no connection, no node counts as silent.
  const due = isConnected ? silentAt(state.live) : Infinity;
  useEffect(() => {
    if (due === Infinity) return undefined;
    // Not before it is due, also if the clock was set back meanwhile.
    const tick = () => dispatch({ kind: "tick", now: Math.max(Date.now(), due) });
    const timer = setTimeout(tick, due - Date.now());
    return () => clearTimeout(timer);
  }, [due]);
  return { ...state, status };
}

function reduce(state: State, action: Action): State {
  switch (action.kind) {
    case "content": {
      const live = afterContent(state.live, action.content, action.now);
      return { live, updatedAt: action.content.kind === "node" ? action.now : state.updatedAt };
    }
    case "connected":
      return { ...state, live: afterPause(state.live, action.now) };
    case "tick": {
      const live = withoutSilent(state.live, action.now);
      return live === state.live ? state : { ...state, live };
    }
  }
}
