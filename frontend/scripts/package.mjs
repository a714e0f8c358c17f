/**
 * Packs the package as a user does, and checks the archive: its files, its manifest with publint, and
 * its types with "Are the types wrong?".
 */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { publint } from "publint";
import { formatMessage } from "publint/utils";

const root = fileURLToPath(new URL("..", import.meta.url));
const manifest = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
const folder = mkdtempSync(`${tmpdir()}/package-`);
const faults = [];

try {
  const { stdout } = run("npm", ["pack", "--json", "--pack-destination", folder]);
  const [{ files, filename }] = JSON.parse(stdout);
  const archive = `${folder}/${filename}`;

  const paths = files.map(({ path }) => path);
  const declared = Object.values(manifest.exports).flatMap((target) =>
    typeof target === "string" ? [target] : Object.values(target),
  );
  for (const path of ["LICENSE", "README.md", ...declared.map((target) => target.replace("./", ""))]) {
    if (!paths.includes(path)) faults.push(`the archive lacks ${path}`);
  }
  for (const path of paths) {
    if (!/^(dist\/.+\.(js|d\.ts)|LICENSE|README\.md|package\.json)$/.test(path)) faults.push(`the archive has ${path}`);
  }
  if (readFileSync(`${root}LICENSE`, "utf8") !== readFileSync(`${root}../LICENSE`, "utf8")) {
    faults.push("LICENSE differs from the project's");
  }

  const tarball = readFileSync(archive);
  const { messages, pkg } = await publint({
    pack: { tarball: tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.length) },
    strict: true,
  });
  faults.push(...messages.map((message) => `publint: ${formatMessage(message, pkg)}`));

  // Node before 20.19 cannot load ES modules with `require`; the package does not support it.
  const types = `${root}node_modules/@arethetypeswrong/cli/dist/index.js`;
  const checked = run(process.execPath, [types, archive, "--profile", "esm-only", "--no-color", "--no-emoji"], true);
  if (checked.status !== 0) faults.push(checked.stdout);

  console.log(`${filename}: ${paths.length} files`);
} finally {
  rmSync(folder, { recursive: true });
}
for (const fault of faults) console.error(fault);
process.exitCode = faults.length > 0 ? 1 : 0;

/** Runs a program, and returns its end; a failure ends this script, unless it may fail. */
function run(program, words, mayFail = false) {
  const ended = spawnSync(program, words, {
    cwd: root,
    encoding: "utf8",
    shell: process.platform === "win32",
  });
  if (ended.error !== undefined) throw ended.error;
  if (ended.status !== 0 && !mayFail) throw new Error(`${program} ${words.join(" ")}:\n${ended.stdout}${ended.stderr}`);
  return ended;
}
