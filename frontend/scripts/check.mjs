/**
 * Runs scripts in parallel, as many at once as there are cores, and prints the output of each when it
 * has ended. Fails if any of them fails.
 *
 *     node scripts/check.mjs lint build+size pages:types
 *
 * `build+size` runs one after the other; `pages:types` is a script of that folder.
 */

import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const steps = process.argv.slice(2);
const failed = [];

function run(folder, script) {
  return new Promise((resolve) => {
    let output = "";
    const child = spawn(process.execPath, ["--run", script], { cwd: `${root}${folder}` });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text) => (output += text));
    }
    child.on("close", (code) => resolve({ output, isFine: code === 0 }));
  });
}

async function work() {
  for (let step = steps.shift(); step !== undefined; step = steps.shift()) {
    const began = Date.now();
    const [scripts, folder = ""] = step.split(":").reverse();
    let isFine = true;
    for (const script of scripts.split("+")) {
      if (!isFine) break;
      const ended = await run(folder, script);
      isFine = ended.isFine;
      process.stdout.write(ended.output);
    }
    if (!isFine) failed.push(step);
    const seconds = ((Date.now() - began) / 1000).toFixed(1);
    console.log(`== ${step}: ${isFine ? "fine" : "FAILED"} after ${seconds} s`);
  }
}

await Promise.all(Array.from({ length: availableParallelism() }, work));
if (failed.length > 0) console.error(`failed: ${failed.join(", ")}`);
process.exitCode = failed.length > 0 ? 1 : 0;
