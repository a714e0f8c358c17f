// Light or dark: as the system says, unless the reader chose.

export type Theme = "auto" | "light" | "dark";

const KEPT = "netra.theme";
const NEXT: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };

export function keptTheme(): Theme {
  try {
    const kept = localStorage.getItem(KEPT);
    return kept === "light" || kept === "dark" ? kept : "auto";
  } catch {
    return "auto";
  }
}

export function applyTheme(theme: Theme): void {
  document.documentElement.dataset["theme"] = theme;
  try {
    localStorage.setItem(KEPT, theme);
  } catch {
    // It lasts as long as the page.
  }
}

export const nextTheme = (theme: Theme): Theme => NEXT[theme];
