/**
 * Compiles the examples of docs/react.md as the code of a user does, for each way of resolving modules:
 * against the built types, with strict options and without `skipLibCheck`.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));
const page = readFileSync(new URL("../../docs/react.md", import.meta.url), "utf8");
const { compilerOptions } = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile).config;
const files = new Map();
// In the package's own folder its name means the package as it is built: only in memory.
for (const [index, [, language, code]] of [...page.matchAll(/^```(tsx?)\n(.*?)^```$/gms)].entries()) {
  files.set(`${root}consumer-${index}.${language}`, code);
}
let isFine = files.size > 0;

for (const [module, moduleResolution] of [["ESNext", "Bundler"], ["Node16", "Node16"], ["NodeNext", "NodeNext"]]) {
  const { options } = ts.convertCompilerOptionsFromJson(
    { ...compilerOptions, module, moduleResolution, skipLibCheck: false, skipDefaultLibCheck: true, types: [] },
    root,
  );
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists, readFile } = host;
  host.fileExists = (name) => files.has(name) || fileExists(name);
  host.readFile = (name) => files.get(name) ?? readFile(name);
  host.getSourceFile = (name, languageVersion, ...rest) =>
    files.has(name)
      ? ts.createSourceFile(name, files.get(name), languageVersion)
      : getSourceFile(name, languageVersion, ...rest);
  const program = ts.createProgram([...files.keys()], options, host);
  const uses = (part) => program.getSourceFiles().some(({ fileName }) => fileName.startsWith(`${root}${part}/`));
  const faults = ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const line = file === undefined ? "" : `:${file.getLineAndCharacterOfPosition(start).line + 1}`;
    return `${file?.fileName}${line}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
  });
  if (!uses("dist") || uses("src")) faults.push("the types are not those of dist/");
  for (const fault of faults) console.error(`${moduleResolution}: ${fault}`);
  isFine &&= faults.length === 0;
}
if (!isFine) process.exit(1);
console.log(`dist/: ${files.size} examples compile in each resolution of modules`);
