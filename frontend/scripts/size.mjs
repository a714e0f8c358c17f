/** Fails if the code that a page loads exceeds its limit: minified and compressed, without React. */

import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const LIMITS = [
  // Bytes: what a page loads at once, about 3 % above the current sizes, and what it loads only if needed.
  ["dist/index.js", 40_900, 1_900],
  ["dist/react/index.js", 43_900, 1_900],
];

let isTooLarge = false;

function check(name, chunks, limit) {
  const size = chunks.reduce((sum, { code = "" }) => sum + gzipSync(code, { level: 9 }).length, 0);
  console.log(`${name}: ${size} bytes of ${limit} (minified, gzip)`);
  isTooLarge ||= size > limit;
}

for (const [entry, limit, laterLimit] of LIMITS) {
  const input = fileURLToPath(new URL(`../${entry}`, import.meta.url));
  const bundle = await rolldown({ input, external: ["react"], logLevel: "silent" });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  const isLater = ({ isDynamicEntry }) => isDynamicEntry;
  check(entry, output.filter((chunk) => !isLater(chunk)), limit);
  check(`${entry}, later`, output.filter(isLater), laterLimit);
}
process.exit(isTooLarge ? 1 : 0);
