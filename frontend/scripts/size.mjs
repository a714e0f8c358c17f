/** Fails if the code that a page loads exceeds its limit: minified and compressed, without React. */

import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const LIMITS = [
  // Bytes: about 5 % above the current sizes.
  ["dist/index.js", 34_500],
  ["dist/react/index.js", 36_200],
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
