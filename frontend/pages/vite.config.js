// Each page has one script and one style sheet, with a hash of their content in their names.

import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig(({ mode }) => ({
  root: here("."),
  base: "/",
  // The client's sources are outside of this folder, and have no node_modules of their own in a build.
  resolve: { dedupe: ["react", "react-dom"] },
  define: {
    "process.env.NODE_ENV": JSON.stringify(mode === "development" ? "development" : "production"),
  },
  build: {
    outDir: here("../../netra_trio/page"),
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { input: ["index.html", "admin.html"].map(here) },
    minify: mode !== "development",
  },
  server: { proxy: { "/ws": { target: "http://127.0.0.1:8000", ws: true } } },
}));
