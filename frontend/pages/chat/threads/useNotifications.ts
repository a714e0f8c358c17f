// Notifications of the system when an answer is complete or an agent asks, while no tab is visible. They
// show the title of the conversation only. Of several tabs one notifies.

import { useCallback, useEffect, useRef, useState } from "react";
import type { ListedThread } from "../../../src/index.ts";
import { ICON } from "../../shared/icons.tsx";
import { local, readStored, store } from "../../shared/storage.ts";
import { openThread } from "./address.ts";
import { newsOf, type News } from "./changes.ts";
import { holdLock, isLocked } from "./locks.ts";
import type { ThreadListState } from "./useThreadList.ts";
import { useVisible } from "./useVisible.ts";

type List = Pick<ThreadListState, "threads" | "isLoaded">;

const NEWS: Record<News["kind"], string> = {
  asks: "The agent waits for your answer.",
  answer: "The answer is complete.",
};

export interface Notifying {
  /** False where the browser has no notifications for pages. */
  readonly isPossible: boolean;
  readonly isOn: boolean;
  /** The browser refuses them for this page. */
  readonly isDenied: boolean;
  readonly toggle: () => Promise<void>;
}

const isStored = (name: string) => readStored(local, name) === true;

// Android's browsers show notifications of service workers only.
const isPossible = () => "Notification" in window && "locks" in navigator && !navigator.userAgent.includes("Android");

export function useNotifications(user: string, list: List): Notifying {
  const name = `netra.notify.${user}`;
  const [isWanted, setWanted] = useState(() => isStored(name));
  const [isDenied, setDenied] = useState(false);
  const possible = isPossible();
  const isOn = possible && isWanted && Notification.permission === "granted";

  useEffect(() => {
    const onStorage = ({ key }: StorageEvent) => {
      if (key === name) setWanted(isStored(name));
    };
    addEventListener("storage", onStorage);
    return () => removeEventListener("storage", onStorage);
  }, [name]);
  const toggle = useCallback(async () => {
    // The browser asks the user only now.
    const permission = isOn ? "granted" : await Notification.requestPermission();
    setDenied(permission === "denied");
    const isNext = !isOn && permission === "granted";
    store(local, name, isNext || null);
    setWanted(isNext);
  }, [isOn, name]);

  useNews(name, isOn, list);
  return { isPossible: possible, isOn, isDenied, toggle };
}

function useNews(name: string, isOn: boolean, { threads, isLoaded }: List): void {
  const isVisible = useVisible();
  const isFirst = useRef(false); // of the tabs
  const before = useRef<readonly ListedThread[] | null>(null);
  const shown = useRef<Notification[]>([]);
  const seen = `${name}.visible`;

  useEffect(() => {
    if (!isOn) return undefined;
    const release = holdLock(name, "exclusive", () => {
      isFirst.current = true;
    });
    return () => {
      isFirst.current = false;
      release();
    };
  }, [isOn, name]);

  useEffect(() => {
    if (!isOn || !isVisible) return undefined;
    for (const notification of shown.current.splice(0)) notification.close();
    return holdLock(seen, "shared");
  }, [isOn, isVisible, seen]);

  useEffect(() => {
    if (!isLoaded) return;
    const news = before.current === null ? [] : newsOf(before.current, threads);
    before.current = threads;
    if (!isOn || !isFirst.current || isVisible || news.length === 0) return;
    isLocked(seen)
      .then((isSeen) => {
        if (!isSeen) shown.current.push(...news.map(notify));
      })
      .catch(() => undefined); // Some browsers offer notifications to a page, and then refuse them.
  }, [threads, isLoaded, isOn, isVisible, seen]);
}

function notify({ thread: { thread_id, title }, kind }: News): Notification {
  // A newer one of the same conversation replaces it.
  const notification = new Notification(title, { body: NEWS[kind], tag: `netra.${thread_id}`, icon: ICON, dir: "auto" });
  notification.onclick = () => {
    window.focus();
    openThread(thread_id);
    notification.close();
  };
  return notification;
}
