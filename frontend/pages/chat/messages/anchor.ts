// The element at the top of what the user reads, and its place: by script, because not every browser
// keeps the place itself.

const MAX_DEPTH = 8; // of elements in a message: a paragraph, an item of a list, a row

interface Taken {
  /** From a message down to the smallest element at the top of the visible part. */
  readonly path: readonly { readonly element: Element; readonly top: number }[];
  readonly scrollTop: number;
}

export class Anchor {
  readonly #area: HTMLElement;
  readonly #content: HTMLElement;
  #taken: Taken | null = null;

  /**
   * @param area Scrolls.
   * @param content Has the messages, as children of its `.log`.
   */
  constructor(area: HTMLElement, content: HTMLElement) {
    this.#area = area;
    this.#content = content;
  }

  /** Remember the place of an element, or of what is at the top of the visible part. */
  take(element?: Element): void {
    const path = element === undefined ? this.#path() : [element];
    const taken = path.map((one) => ({ element: one, top: one.getBoundingClientRect().top }));
    this.#taken = { path: taken, scrollTop: this.#area.scrollTop };
  }

  /** Scroll so that the element is where it was, apart from what the user has scrolled since. */
  restore(): void {
    const area = this.#area;
    if (this.#taken === null) return;
    const { path, scrollTop } = this.#taken;
    // Small elements are replaced while a text is written; the message itself stays.
    const found = path.findLast(({ element }) => element.isConnected);
    if (found === undefined) return this.take();
    const moved = found.element.getBoundingClientRect().top - found.top + (area.scrollTop - scrollTop);
    if (Math.abs(moved) >= 1) area.scrollTop += moved;
    this.take(path.length === 1 ? found.element : undefined);
  }

  #path(): Element[] {
    const top = this.#area.getBoundingClientRect().top;
    const path: Element[] = [];
    let within: Element | null = this.#content.querySelector(".log");
    while (within !== null && path.length < MAX_DEPTH) {
      let next: Element | null = firstBelow(within.children, top);
      // The line of a day moves to an earlier message once that is loaded.
      while (path.length === 0 && next !== null && !next.matches(".message")) next = next.nextElementSibling;
      if (next === null) break;
      path.push(next);
      // An element that begins in the visible part needs no smaller one.
      if (next.getBoundingClientRect().top >= top) break;
      within = next;
    }
    return path;
  }
}

/** The first of elements, which are listed from top to bottom, that ends below a line. */
function firstBelow(elements: HTMLCollection, line: number): Element | null {
  let [low, high] = [0, elements.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const bottom = elements[middle]?.getBoundingClientRect().bottom ?? 0;
    if (bottom > line) high = middle;
    else low = middle + 1;
  }
  return elements[low] ?? null;
}
