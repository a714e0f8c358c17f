import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const older = (name: string): string =>
  fileURLToPath(new URL(`./test/react-18/node_modules/${name}`, import.meta.url));

export default defineConfig({
  test: {
    projects: [
      { test: { name: "core", include: ["test/**/*.test.ts"], environment: "node", testTimeout: 15_000 } },
      {
        test: { name: "react-19", include: ["test/react/**/*.test.tsx"], environment: "jsdom" },
      },
      {
        // The same tests with the oldest React that is promised.
        resolve: { alias: { react: older("react"), "react-dom": older("react-dom") } },
        test: { name: "react-18", include: ["test/react/**/*.test.tsx"], environment: "jsdom" },
      },
    ],
  },
});
