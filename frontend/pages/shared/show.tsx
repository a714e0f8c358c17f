// Shows a page in its document.

import { type ComponentType, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { type Arrival, arrive } from "./arrival.ts";
import { applyTheme, storedTheme } from "./theme.ts";

/** @param id Of the element that gets the page. */
export function show(App: ComponentType<{ readonly arrival: Arrival }>, id: string): void {
  applyTheme(storedTheme());
  const place = document.getElementById(id);
  if (place === null) return;
  const arrival = arrive();
  createRoot(place).render(
    <StrictMode>
      <App arrival={arrival} />
    </StrictMode>,
  );
}
