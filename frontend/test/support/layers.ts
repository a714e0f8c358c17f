/** What jsdom lacks of popovers and dialogs: their state, their events and the focus of dialogs. */

export function stubLayers(): void {
  const { prototype } = HTMLElement;
  const isPopover = (element: Element): boolean => element.hasAttribute("popover");
  const toggle = (element: HTMLElement, newState: "open" | "closed"): void => {
    if (element.hasAttribute("data-open") === (newState === "open")) return;
    for (const name of ["beforetoggle", "toggle"]) {
      element.dispatchEvent(Object.assign(new Event(name), { newState }));
      if (name === "beforetoggle") element.toggleAttribute("data-open", newState === "open");
    }
  };
  prototype.showPopover = function showPopover(): void {
    toggle(this, "open");
  };
  prototype.hidePopover = function hidePopover(): void {
    toggle(this, "closed");
  };
  document.addEventListener("click", ({ target }) => {
    const id = (target as Element).closest("[popovertarget]")?.getAttribute("popovertarget");
    const popover = id == null ? null : document.getElementById(id);
    if (popover !== null && isPopover(popover)) toggle(popover, popover.hasAttribute("data-open") ? "closed" : "open");
  });
  let before: Element | null = null;
  HTMLDialogElement.prototype.showModal = function showModal(): void {
    before = document.activeElement;
    this.setAttribute("open", "");
    this.querySelector<HTMLElement>("button, [tabindex]")?.focus();
  };
  HTMLDialogElement.prototype.close = function close(): void {
    if (!this.hasAttribute("open")) return;
    this.removeAttribute("open");
    if (before instanceof HTMLElement) before.focus();
    this.dispatchEvent(new Event("close"));
  };
}
