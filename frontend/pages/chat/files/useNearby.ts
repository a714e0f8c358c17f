// Whether an element is on the screen, or near it. Content that is far away is not loaded.

import { type RefObject, useEffect, useState } from "react";

const MARGIN = "100%"; // of the window, above and below

export function useNearby(element: RefObject<Element | null>): boolean {
  const [isNearby, setNearby] = useState(false);
  useEffect(() => {
    const { current } = element;
    if (current === null) return undefined;
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
        // It stays loaded, so that scrolling back shows it at once.
        setNearby(true);
        observer.disconnect();
      },
      { rootMargin: `${MARGIN} 0px` },
    );
    observer.observe(current);
    return () => observer.disconnect();
  }, [element]);
  return isNearby;
}
