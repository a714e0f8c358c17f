// The button that changes the theme: as the system, light, dark.

import { useState } from "react";
import { AutoIcon, MoonIcon, SunIcon } from "./icons.tsx";
import { applyTheme, nextTheme, storedTheme, type Theme } from "./theme.ts";

const THEMES: Record<Theme, string> = {
  auto: "Theme: as the system",
  light: "Theme: light",
  dark: "Theme: dark",
};

export function ThemeButton() {
  const [theme, setTheme] = useState(storedTheme);
  const change = () => {
    const next = nextTheme(theme);
    applyTheme(next);
    setTheme(next);
  };
  return (
    <button type="button" className="square" aria-label={THEMES[theme]} title={THEMES[theme]} onClick={change}>
      {theme === "auto" ? <AutoIcon /> : theme === "light" ? <SunIcon /> : <MoonIcon />}
    </button>
  );
}
