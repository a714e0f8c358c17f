// Keeps the focus on the page: where the focused element is removed or disabled, and no component moves
// the focus, it goes to the nearest element that can take it.

import { useEffect } from "react";

const FOCUSABLE = "a[href], button:enabled, input:enabled, select:enabled, textarea:enabled, summary, [tabindex='0']";

/** @param home A selector of the elements that take the focus if there is none nearer; the first one does. */
export function useFocusKept(home: string): void {
  useEffect(() => {
    let last: readonly HTMLElement[] = []; // the focused element, and those around it
    const onFocus = ({ target }: FocusEvent) => {
      last = target instanceof HTMLElement ? [target, ...around(target)] : [];
    };
    // The user clicked elsewhere.
    const onPointer = ({ target }: PointerEvent) => {
      if (target instanceof Element && target.closest(FOCUSABLE) === null) last = [];
    };
    const check = () => {
      const [focused] = last;
      if (focused === undefined || document.activeElement !== document.body || isUsable(focused)) return;
      const place = last.find((element) => element.isConnected && element !== focused && element.matches(":not(main, body, body > *)") && nearest(element) !== null);
      (place === undefined ? document.querySelector<HTMLElement>(home) : nearest(place))?.focus();
    };
    const observer = new MutationObserver(check);
    observer.observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["disabled", "hidden"] });
    document.addEventListener("focusin", onFocus);
    document.addEventListener("pointerdown", onPointer, { capture: true });
    return () => {
      observer.disconnect();
      document.removeEventListener("focusin", onFocus);
      document.removeEventListener("pointerdown", onPointer, { capture: true });
    };
  }, [home]);
}

function around(element: HTMLElement): readonly HTMLElement[] {
  const all: HTMLElement[] = [];
  for (let each = element.parentElement; each !== null; each = each.parentElement) all.push(each);
  return all;
}

const isUsable = (element: HTMLElement) => element.isConnected && !element.matches(":disabled, [hidden] *");

const nearest = (place: HTMLElement) =>
  [...place.querySelectorAll<HTMLElement>(FOCUSABLE)].find((element) => element.closest("[inert], [hidden]") === null) ?? null;
