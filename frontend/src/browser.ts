/** The ports of a page: the only part of the core that uses the browser's interfaces. */

import type { Cancel, Channel, Locks, PageEvent, Ports, Storage, StreamEvents, StreamRequest } from "./ports.js";

export function browserPorts(): Ports {
  const channels = typeof BroadcastChannel === "function" ? { openChannel } : {};
  const locks = typeof navigator === "object" && "locks" in navigator ? { locks: webLocks } : {};
  return {
    WebSocket: globalThis.WebSocket,
    http,
    stream,
    upload,
    timers: {
      now: () => Date.now(),
      setTimeout: (run, ms) => {
        const id = setTimeout(run, ms);
        return () => clearTimeout(id);
      },
    },
    random: () => Math.random(),
    uniqueId,
    shared: webStorage(() => localStorage),
    tab: webStorage(() => sessionStorage),
    onPage,
    resolve: (address, base) => new URL(address, base ?? here()).href,
    ...channels,
    ...locks,
  };
}

/** The page's address; a page that is rendered on a server has none yet. */
const here = (): string => (typeof location === "object" ? location.href : "http://localhost/");

/** 128 random bits as hexadecimal digits, which a thread id may contain. */
function uniqueId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const http: Ports["http"] = async ({ url, timeout_ms, ...request }) => {
  const answer = await fetch(url, {
    ...request,
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(timeout_ms),
  });
  return {
    status: answer.status,
    body: await answer.text(),
    retryAfter: answer.headers.get("Retry-After"),
  };
};

const stream: NonNullable<Ports["stream"]> = (request, events) => {
  const control = new AbortController();
  const { signal } = control;
  const ended = (isComplete: boolean): void => {
    if (!signal.aborted) events.ended(isComplete);
  };
  void read(request, events, signal).then(() => ended(true), () => ended(false));
  return () => control.abort();
};

async function read({ url, ...request }: StreamRequest, events: StreamEvents, signal: AbortSignal): Promise<void> {
  const answer = await fetch(url, { ...request, cache: "no-store", credentials: "omit", signal });
  signal.throwIfAborted();
  const type = answer.headers.get("Content-Type") ?? "";
  events.head(answer.status, type, answer.headers.get("Retry-After"));
  if (!type.startsWith("text/event-stream")) {
    const text = await answer.text();
    signal.throwIfAborted();
    events.text(text);
    return;
  }
  const body = answer.body?.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const piece = await body?.read();
    signal.throwIfAborted();
    if (piece === undefined || piece.done) return;
    events.text(decoder.decode(piece.value, { stream: true }));
  }
}

/** `fetch` reports no progress of what it sends. */
const upload: NonNullable<Ports["upload"]> = ({ url, headers, file }, events) => {
  const request = new XMLHttpRequest();
  let isOver = false;
  const end = (report: () => void): void => {
    if (!isOver) report();
    isOver = true;
  };
  request.open("POST", url);
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  request.upload.onprogress = ({ loaded }) => {
    if (!isOver) events.progress(loaded);
  };
  request.onload = () => {
    const { status, responseText: body } = request;
    end(() => events.ended({ status, body, retryAfter: request.getResponseHeader("Retry-After") }));
  };
  request.onerror = () => {
    // The browser reports a file that it cannot read as a lost connection.
    (file as Blob).slice(0, 1).arrayBuffer().then(
      () => end(() => events.ended(null)),
      () => end(() => events.unreadable()),
    );
  };
  request.send(file as Blob);
  return () => {
    isOver = true;
    request.abort();
  };
};

/** The browser's storage, or, if the page must not use it, one that lasts as long as the page. */
function webStorage(get: () => globalThis.Storage): Storage {
  try {
    const storage = get();
    storage.getItem("");
    return {
      get: (name) => storage.getItem(name),
      set: (name, value) => storage.setItem(name, value),
      remove: (name) => storage.removeItem(name),
    };
  } catch {
    return memoryStorage();
  }
}

/** A storage that lasts as long as the page. */
export function memoryStorage(): Storage {
  const values = new Map<string, string>();
  return {
    get: (name) => values.get(name) ?? null,
    set: (name, value) => void values.set(name, value),
    remove: (name) => void values.delete(name),
  };
}

const onPage = (event: PageEvent, run: () => void): Cancel => {
  switch (event) {
    case "online":
      return listen(window, "online", run);
    case "visible":
      return listen(document, "visibilitychange", () => {
        if (document.visibilityState === "visible") run();
      });
    case "hide":
      return listen(window, "pagehide", run);
    case "show":
      return listen(window, "pageshow", run);
  }
};

function listen(target: EventTarget, name: string, run: () => void): Cancel {
  target.addEventListener(name, run);
  return () => target.removeEventListener(name, run);
}

function openChannel(name: string, onMessage: (message: unknown) => void): Channel {
  const channel = new BroadcastChannel(name);
  channel.onmessage = (event: MessageEvent<unknown>) => onMessage(event.data);
  return { post: (message) => channel.postMessage(message), close: () => channel.close() };
}

function lock(name: string, isStolen: boolean, granted: () => void, lost: () => void): Cancel {
  const waiting = new AbortController();
  let isHeld = false;
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  // The browser rejects a signal together with `steal`, which does not wait anyway.
  const options = isStolen ? { steal: true } : { signal: waiting.signal };
  navigator.locks
    .request(name, options, () => {
      // Cancelled between the grant and this call: release the lock at once.
      if (waiting.signal.aborted) return undefined;
      isHeld = true;
      granted();
      return held;
    })
    .catch((error: unknown) => {
      // Cancelling the wait rejects the request, as intended.
      if (waiting.signal.aborted) return;
      if (!isHeld) throw error;
      lost();
    });
  return () => {
    waiting.abort();
    release();
  };
}

const webLocks: Locks = {
  request: (name, granted, lost) => lock(name, false, granted, lost),
  steal: (name, granted, lost) => lock(name, true, granted, lost),
};
