import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { index: "src/index.ts", "react/index": "src/react/index.ts" },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: true,
  clean: true,
  deps: { neverBundle: ["react"] },
  outputOptions: {
    // One file for the core. What its fallback shares with it would be a third one, which bundlers
    // of applications keep apart, and which compresses worse.
    codeSplitting: {
      groups: [
        {
          name: "client",
          test: /src\/(?!react\/|index\.ts|connection\/fallback\.ts|protocol\/sse\.ts).*(?<!\.d)\.ts$/,
        },
      ],
    },
  },
});
