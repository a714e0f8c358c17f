/** Builds the package before it is packed; in a fresh clone this installs what the build needs first. */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

function run(...words) {
  // The output of `npm pack` is the name of the archive, and only that.
  const { status, error } = spawnSync("npm", words, {
    cwd: root,
    shell: process.platform === "win32",
    stdio: ["ignore", process.stderr, process.stderr],
  });
  if (error !== undefined) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

if (!existsSync(`${root}node_modules/tsdown`)) run("ci", "--ignore-scripts", "--prefer-offline");
run("run", "build");
