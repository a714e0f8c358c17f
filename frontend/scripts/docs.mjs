/** Compiles the examples of docs/react.md against the sources, with the options of this package. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));
const page = readFileSync(new URL("../../docs/react.md", import.meta.url), "utf8");
const examples = [...page.matchAll(/^```(tsx?)\n(.*?)^```$/gms)].map(([, language, code], index) => [
  `${root}docs-example-${index}.${language}`, // only in memory
  code,
]);
const files = new Map(examples);

const { compilerOptions } = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile).config;
const { options } = ts.convertCompilerOptionsFromJson(
  {
    ...compilerOptions,
    paths: { "@netra-trio/client": ["./src/index.ts"], "@netra-trio/client/react": ["./src/react/index.ts"] },
  },
  root,
);
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists, readFile } = host;
host.fileExists = (name) => files.has(name) || fileExists(name);
host.readFile = (name) => files.get(name) ?? readFile(name);
host.getSourceFile = (name, ...rest) =>
  files.has(name) ? ts.createSourceFile(name, files.get(name), options.target) : getSourceFile(name, ...rest);
const faults = ts.getPreEmitDiagnostics(ts.createProgram([...files.keys()], options, host));
for (const { file, start, messageText } of faults) {
  const line = file === undefined ? "" : `:${file.getLineAndCharacterOfPosition(start).line + 1}`;
  console.error(`${file?.fileName}${line}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`);
}
if (faults.length > 0 || files.size === 0) process.exit(1);
console.log(`docs/react.md: ${files.size} examples compile`);
