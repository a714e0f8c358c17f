// Code highlighting: comments, strings, numbers, keywords and calls. It knows no grammar, so it can
// be wrong; the pieces always add up to the text.

export type Kind = "comment" | "string" | "number" | "keyword" | "call";

export interface Piece {
  readonly text: string;
  readonly kind: Kind | null;
}

const CHUNK_LINES = 40; // lines that are rendered together
const MAX_CHARACTERS = 20_000; // that are highlighted again with each delta: a longer comment ends the highlighting

interface Language {
  readonly comment: string;
  readonly string: string;
  readonly keywords: ReadonlySet<string>;
}

const words = (text: string): ReadonlySet<string> => new Set(text.split(" "));

// No pattern backtracks far: a repetition without a clear end is bounded, or ends with the text.
const DOUBLE = String.raw`"(?:\\.|[^"\\\n]){0,500}"`;
const QUOTED = String.raw`${DOUBLE}|'(?:\\.|[^'\\\n]){0,500}'`;
const STARS = String.raw`\/\*[^]*?(?:\*\/|$)`;
const SLASHES = String.raw`\/\/[^\n]*|${STARS}`;

const PYTHON: Language = {
  comment: "#[^\\n]*",
  string: `"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|${QUOTED}`,
  keywords: words(
    "and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return True try while with yield",
  ),
};
const BRACES: Language = {
  comment: SLASHES,
  string: `${QUOTED}|${String.raw`\`(?:\\.|[^\`\\])*(?:\`|\\?$)`}`,
  keywords: words(
    "abstract any as async await bool boolean break case catch char class const continue def default defer delete do double else enum export extends false final finally float fn for from func function go if impl implements import in instanceof int interface let long match mod mut namespace new nil null number of override package private protected pub public range readonly return self static string struct super switch this throw throws trait true try type typeof undefined union use using var void where while yield",
  ),
};
/** A single quote may begin a lifetime, so it does not begin a string. */
const RUST: Language = { ...BRACES, string: DOUBLE };
const HASHES: Language = {
  comment: "(?<=^|\\s)#[^\\n]*",
  string: QUOTED,
  keywords: words(
    "begin case def do done elif else end esac export false fi for function if in local module nil null return set then true unless until while",
  ),
};
const SQL: Language = {
  comment: `--[^\\n]*|${STARS}`,
  string: QUOTED,
  keywords: words(
    "add all alter and as asc begin between by case check column commit constraint create cross default delete desc distinct drop else end exists foreign from full group having if in index inner insert into is join key left like limit not null offset on or order outer primary references returning right rollback select set table then union unique update using values view when where with",
  ),
};

const LANGUAGES: ReadonlyMap<string, Language> = new Map([
  ...["py", "python", "python3"].map((name) => [name, PYTHON] as const),
  ...["bash", "console", "ini", "rb", "ruby", "sh", "shell", "toml", "yaml", "yml", "zsh"].map(
    (name) => [name, HASHES] as const,
  ),
  ...[
    "c", "c++", "cpp", "cs", "csharp", "css", "dart", "go", "java", "javascript", "js", "json", "jsonc",
    "jsx", "kotlin", "php", "scala", "swift", "ts", "tsx", "typescript", "zig",
  ].map((name) => [name, BRACES] as const),
  ["rs", RUST],
  ["rust", RUST],
  ["sql", SQL],
]);

/** Highlights code that grows: finished chunks of lines are kept as they are. */
export class Highlighter {
  #text = "";
  #name = "";
  #chunks: (readonly Piece[])[] = [];
  /** The end of the finished chunks. */
  #end = 0;
  #isPlain = false;

  /** The pieces of a text, in chunks of lines. */
  read(text: string, name: string): readonly (readonly Piece[])[] {
    if (name !== this.#name || !text.startsWith(this.#text)) {
      this.#chunks = [];
      this.#end = 0;
      this.#isPlain = false;
    }
    this.#text = text;
    this.#name = name;
    const language = this.#isPlain ? undefined : LANGUAGES.get(name.toLowerCase());
    const rest = this.#split(language ? tokens(text, this.#end, language) : [{ text: text.slice(this.#end), kind: null }]);
    this.#isPlain ||= text.length - this.#end > MAX_CHARACTERS;
    // A copy: the finished ones are added to the list, and a rendered list must stay.
    return rest.length > 0 ? [...this.#chunks, rest] : [...this.#chunks];
  }

  /** Adds finished chunks; returns the pieces of the rest. */
  #split(pieces: Iterable<Piece>): readonly Piece[] {
    const lastLine = this.#text.lastIndexOf("\n") + 1;
    let chunk: Piece[] = [];
    let lines = 0;
    let at = this.#end;
    for (const { text, kind } of pieces) {
      let from = 0;
      for (let line = text.indexOf("\n"); line >= 0; line = text.indexOf("\n", line + 1)) {
        lines += 1;
        // Only between pieces is it known that more text changes nothing.
        if (kind !== null || lines < CHUNK_LINES || at + line + 1 >= lastLine) continue;
        chunk.push({ text: text.slice(from, line + 1), kind });
        this.#chunks.push(chunk);
        from = line + 1;
        this.#end = at + from;
        chunk = [];
        lines = 0;
      }
      if (from < text.length) chunk.push({ text: text.slice(from), kind });
      at += text.length;
    }
    return chunk;
  }
}

/** The pieces of a text from a position on. */
function* tokens(text: string, from: number, language: Language): Iterable<Piece> {
  const pattern = new RegExp(
    `(?<comment>${language.comment})|(?<string>${language.string})|(?<number>\\b\\d[\\w.]*)|(?<word>[A-Za-z_$][\\w$]*)`,
    "g",
  );
  pattern.lastIndex = from;
  let end = from;
  for (let found = pattern.exec(text); found; found = pattern.exec(text)) {
    const to = found.index + found[0].length;
    const kind = kindOf(found.groups ?? {}, language, text[to] === "(");
    if (kind === null) continue;
    if (found.index > end) yield { text: text.slice(end, found.index), kind: null };
    yield { text: found[0], kind };
    end = to;
  }
  if (end < text.length) yield { text: text.slice(end), kind: null };
}

function kindOf(
  { comment, string, number, word }: Record<string, string | undefined>,
  language: Language,
  isCalled: boolean,
): Kind | null {
  if (comment !== undefined) return "comment";
  if (string !== undefined) return "string";
  if (number !== undefined) return "number";
  if (word === undefined) return null;
  const known = language === SQL ? word.toLowerCase() : word;
  if (language.keywords.has(known)) return "keyword";
  return isCalled ? "call" : null;
}
