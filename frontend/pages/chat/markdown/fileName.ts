// The name of a file with code: it comes from a list, never from the model's text.

const EXTENSIONS: Readonly<Record<string, string>> = {
  bash: "sh", sh: "sh", shell: "sh", zsh: "sh", console: "txt", powershell: "ps1", ps1: "ps1", bat: "bat",
  c: "c", "c++": "cpp", cpp: "cpp", h: "h", cs: "cs", csharp: "cs", go: "go", java: "java", kotlin: "kt",
  rs: "rs", rust: "rs", swift: "swift", zig: "zig", scala: "scala", dart: "dart", php: "php", perl: "pl",
  py: "py", python: "py", python3: "py", rb: "rb", ruby: "rb", lua: "lua", r: "r", julia: "jl",
  js: "js", javascript: "js", jsx: "jsx", ts: "ts", typescript: "ts", tsx: "tsx", vue: "vue", svelte: "svelte",
  html: "html", css: "css", scss: "scss", xml: "xml", svg: "svg", json: "json", jsonc: "jsonc", yaml: "yaml",
  yml: "yaml", toml: "toml", ini: "ini", sql: "sql", csv: "csv", graphql: "graphql", proto: "proto",
  md: "md", markdown: "md", tex: "tex", latex: "tex", diff: "diff", patch: "diff", mermaid: "mmd",
  dockerfile: "dockerfile", makefile: "mk", hcl: "tf", terraform: "tf",
};

/** The name of a file with code in a language. */
export function fileName(language: string): string {
  const name = language.toLowerCase();
  return `code.${Object.hasOwn(EXTENSIONS, name) ? EXTENSIONS[name] : "txt"}`;
}
