/** Fails when what a page loads grows beyond its limit: minified and compressed, React left out. */

import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const LIMITS = [
  // Bytes. The core is everything a page without React needs; about 7 % above what it has today.
  ["dist/index.js", 18_000],
  ["dist/react/index.js", 18_600],
];

let isTooLarge = false;
for (const [entry, limit] of LIMITS) {
  const input = fileURLToPath(new URL(`../${entry}`, import.meta.url));
  const bundle = await rolldown({ input, external: ["react"], logLevel: "silent" });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  const size = output.reduce((sum, { code = "" }) => sum + gzipSync(code, { level: 9 }).length, 0);
  console.log(`${entry}: ${size} bytes of ${limit} (minified, gzip)`);
  isTooLarge ||= size > limit;
}
process.exit(isTooLarge ? 1 : 0);
