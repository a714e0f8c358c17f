// Scrolling that follows the streamed text until the user scrolls up.

import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

const NEAR = 48; // pixels from the end that count as the end

interface StickToEnd {
  readonly scroller: RefObject<HTMLDivElement | null>;
  readonly content: RefObject<HTMLDivElement | null>;
  readonly isAtEnd: boolean;
  readonly toEnd: () => void;
}

/** @param place Names the content: other content begins at its end. */
export function useStickToEnd(place: string): StickToEnd {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [isAtEnd, setAtEnd] = useState(true);

  const toEnd = useCallback(() => {
    follows.current = true;
    setAtEnd(true);
    const area = scroller.current;
    if (area) area.scrollTop = area.scrollHeight;
  }, []);

  useLayoutEffect(() => {
    follows.current = true;
    if (scroller.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  }, [place]);

  useEffect(() => {
    const area = scroller.current;
    const inner = content.current;
    if (!area || !inner) return undefined;
    let last = area.scrollTop;
    const onScroll = () => {
      const left = area.scrollHeight - area.scrollTop - area.clientHeight;
      // Only the user scrolls up. Growing text changes the distance to the end too, but not that.
      if (left <= NEAR) follows.current = true;
      else if (area.scrollTop < last) follows.current = false;
      last = area.scrollTop;
      setAtEnd(follows.current);
    };
    const observer = new ResizeObserver(() => {
      if (!follows.current) return;
      area.scrollTop = area.scrollHeight;
      setAtEnd(true);
    });
    observer.observe(inner);
    observer.observe(area);
    area.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      observer.disconnect();
      area.removeEventListener("scroll", onScroll);
    };
  }, []);

  return { scroller, content, isAtEnd, toEnd };
}
