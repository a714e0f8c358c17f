/** Builds the package before it is packed; in a fresh clone this installs what the build needs first. */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

function run(...words) {
  // The output of `npm pack` is the name of the archive, and only that.
  // The npm that runs this script, which need not be on the path.
  const { status, error } = spawnSync(process.execPath, [process.env.npm_execpath, ...words], {
    cwd: root,
    stdio: ["ignore", process.stderr, process.stderr],
  });
  if (error !== undefined) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

if (!existsSync(`${root}node_modules/tsdown`)) run("ci", "--ignore-scripts", "--prefer-offline");
run("run", "build");
