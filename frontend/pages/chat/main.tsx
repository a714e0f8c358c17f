import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App.tsx";
import { arrive } from "../shared/arrival.ts";
import { applyTheme, storedTheme } from "../shared/theme.ts";

applyTheme(storedTheme());

const place = document.getElementById("chat");
if (place) {
  const arrival = arrive();
  createRoot(place).render(
    <StrictMode>
      <App arrival={arrival} />
    </StrictMode>,
  );
}
