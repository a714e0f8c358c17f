// Scrolling: follows the streamed text until the user scrolls up or opens a card; then keeps what the
// user reads in its place, whatever changes above it.

import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import { Anchor } from "./anchor.ts";

const NEAR = 48; // pixels from the end that count as the end

interface StickToEnd {
  readonly scroller: RefObject<HTMLDivElement | null>;
  readonly content: RefObject<HTMLDivElement | null>;
  readonly isAtEnd: boolean;
  readonly toEnd: () => void;
  /** Stop following the end: what is shown now stays in its place. */
  readonly hold: () => void;
}

/** @param place Names the content: other content begins at its end. */
export function useStickToEnd(place: string): StickToEnd {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const anchor = useRef<Anchor | null>(null);
  const [isAtEnd, setAtEnd] = useState(true);

  const toEnd = useCallback(() => {
    follows.current = true;
    setAtEnd(true);
    const area = scroller.current;
    if (area) area.scrollTop = area.scrollHeight;
  }, []);

  const hold = useCallback(() => {
    follows.current = false;
    anchor.current?.take();
  }, []);

  useLayoutEffect(() => {
    follows.current = true;
    if (scroller.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  }, [place]);

  useEffect(() => {
    const area = scroller.current;
    const inner = content.current;
    if (!area || !inner) return undefined;
    const kept = new Anchor(area, inner);
    anchor.current = kept;
    let last = area.scrollTop;
    const distance = () => area.scrollHeight - area.scrollTop - area.clientHeight;
    const onScroll = () => {
      // Only the user scrolls up. Growing text changes the distance to the end too, but not that.
      if (distance() <= NEAR) follows.current = true;
      else if (area.scrollTop < last) follows.current = false;
      last = area.scrollTop;
      setAtEnd(follows.current);
      if (follows.current) return;
      // The content may have changed since: the event comes before the observer in a frame.
      kept.restore();
      kept.take();
      last = area.scrollTop;
    };
    const onResize = () => {
      if (follows.current) area.scrollTop = area.scrollHeight;
      else kept.restore();
      last = area.scrollTop;
      setAtEnd(follows.current || distance() <= 0);
    };
    const onClick = ({ target }: MouseEvent) => {
      const opener = target instanceof Element ? target.closest("summary, [aria-expanded]") : null;
      if (opener === null) return;
      // The user is about to read what opens here.
      follows.current = false;
      kept.take(opener);
    };
    const observer = new ResizeObserver(onResize);
    observer.observe(inner);
    observer.observe(area);
    area.addEventListener("scroll", onScroll, { passive: true });
    inner.addEventListener("click", onClick, { capture: true });
    return () => {
      observer.disconnect();
      area.removeEventListener("scroll", onScroll);
      inner.removeEventListener("click", onClick, { capture: true });
      anchor.current = null;
    };
  }, []);

  return { scroller, content, isAtEnd, toEnd, hold };
}
