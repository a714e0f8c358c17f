import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { arrive } from "../shared/arrival.ts";
import { applyTheme, storedTheme } from "../shared/theme.ts";
import { App } from "./App.tsx";

applyTheme(storedTheme());

const place = document.getElementById("admin");
if (place) {
  const arrival = arrive();
  createRoot(place).render(
    <StrictMode>
      <App arrival={arrival} />
    </StrictMode>,
  );
}
