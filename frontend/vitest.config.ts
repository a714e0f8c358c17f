import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const older = (name: string): string =>
  fileURLToPath(new URL(`./test/react-18/node_modules/${name}`, import.meta.url));

/** Tests that replace modules, or load them anew. The others share their modules, which halves the time. */
const REPLACING = ["test/layout.test.ts", "test/connection/fallback-missing.test.ts", "test/chat/sign-in.test.ts"];

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "core",
          include: ["test/**/*.test.ts"],
          exclude: REPLACING,
          environment: "node",
          isolate: false,
          testTimeout: 15_000,
        },
      },
      {
        test: { name: "modules", include: REPLACING, environment: "node", testTimeout: 15_000 },
      },
      {
        test: { name: "react-19", include: ["test/react/**/*.test.tsx"], environment: "jsdom", isolate: false },
      },
      {
        // The sources of the pages, with the packages of these tests instead of the page's own.
        resolve: { dedupe: ["react", "react-dom", "@lezer/common", "@lezer/markdown"] },
        test: { name: "pages", include: ["test/{admin,chat}/**/*.test.tsx"], environment: "jsdom" },
      },
      {
        // The tests of the binding with the oldest supported React.
        resolve: { alias: { react: older("react"), "react-dom": older("react-dom") } },
        test: { name: "react-18", include: ["test/react/**/*.test.tsx"], environment: "jsdom", isolate: false },
      },
    ],
  },
});
