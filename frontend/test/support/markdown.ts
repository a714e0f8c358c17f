/** Markdown as models write it. */

export const samples: Readonly<Record<string, string>> = {
  emphasis: "A **bold word**, an *italic one*, ***both***, __also__, _so_, ~~gone~~ and 2 * 3, 4*5*6, snake_case_name.",
  nested: "**bold with *italics inside* and `code *not*`** after, *one **two** three* end.",
  code: "Use `a * b` and ``a ` b`` or `x_y` — then ``` three `` two ``` here.",
  fence: "Text:\n\n```python title=x\ndef f(x):\n    return x ** 2  # `tick`\n\n\nprint('```')\n```\n\nAfter.",
  tildes: "~~~\na | b\n```\n~~~\nend",
  links: "See [the docs](https://example.com/a_(b)?c=*d* \"Title\") and [x](<https://e.com>), array[0], [1, 2), [a] b ![alt](https://e.com/i.png).",
  autolinks: "Go to https://example.com/a_b_c?d=1&e=2, <https://example.com/x> or www.example.com, mail <me@example.com>.",
  "nested link": "**bold [with *a* link](https://example.com) inside** and [`code`](https://e.com).",
  table: "Before\n\n| Name | Value |\n|:-----|------:|\n| **a** | `x \\| y` |\n| b<br>c | [l](https://e.com) |\n| | e |\n\nAfter | the table.",
  "table without edges": "Name | Value\n--- | :---:\na | b\nc | d\n\nend",
  "table in a list": "1. Item:\n\n   | a | b |\n   |---|---|\n   | 1 | 2 |\n2. Next",
  lists: "- one\n- two **bold**\n  - nested `code`\n  - more\n    1. deep\n    2. deeper\n- three\n\n1. first\n2. second\n\n   with a paragraph\n10. tenth\n",
  tasks: "- [ ] open task\n- [x] done *task*\n  - [X] nested\n* [link](https://e.com)\n+ plus",
  quote: "> A quote with **bold\n> text** in it\n>\n> - item\n> > nested `code`\n\nafter",
  headings: "# One\n\nText\n\n## Two **bold** ##\n### `Three` #3\n\n#hashtag and # not",
  rules: "above\n\n---\n\n***\nbelow\n\n- - -\n",
  entities: "AT&amp;T &lt;b&gt; &#169; R&D & so &unknown; on",
  html: "H<sub>2</sub>O <br> next<br/>line, a < b and c > d, <details>\n\n<div class=\"x\">\nraw\n</div>\n\n<!-- note -->\n",
  math: "So $a_b + c_d = *x*$ and \\(x_1 * y_2\\), it costs $5 or $6.\n\n\\[\n\\frac{a_1}{b_2} * c_3 *\n\\]\n\n$$\na_1 * b_2 *\n$$\n",
  escapes: "\\*not emphasis\\* and \\# \\` \\[a\\](b) back\\\\slash",
  footnotes: "A claim[^1] and another[^note].\n\n[^1]: The source, *really*.\n[^note]: More.",
  breaks: "one\ntwo  \nthree\\\nfour",
  chinese: "这是**重点：**后面的*文字*，`代码`。",
  arabic: "مرحبا **بالعالم** و `code` ثم [رابط](https://example.com).\n\n- عنصر\n- *آخر*\n\n| اسم | قيمة |\n|---|---|\n| أ | ب |\n",
  indented: "Text\n\n    code ** here\n    | a | b |\n\nend",
};

export type Choose = (limit: number) => number;

/** Numbers that look random and are the same for a seed: each is less than its limit. */
export function chooser(seed: number): Choose {
  let state = seed * 2_654_435_761;
  return (limit) => {
    state = (Math.imul(state ^ (state >>> 15), 2_246_822_519) + 374_761_393) | 0;
    return ((state >>> 1) ^ (state >>> 13)) % limit;
  };
}

const WORDS = ["alpha", "beta,", "x_y", "3", "A&B", "über", "שלום", "naïve.", "(see", "this)", "it's", "50%", "C#", "a/b"];

function inline(choose: Choose, depth = 0): string {
  const word = (): string => WORDS[choose(WORDS.length)] ?? "";
  const words = (): string => Array.from({ length: 1 + choose(3) }, word).join(" ");
  const inside = (): string => (depth < 2 && choose(2) ? inline(choose, depth + 1) : words()).trim();
  const plain = (): string => words().replace(/[^\p{L}\d ]/gu, "") || "w";
  const parts = [
    words,
    () => `**${plain()} ${depth < 1 ? `*${plain()}*` : ""} ${plain()}**`,
    () => `*${plain()}*`,
    () => `~~${plain()}~~`,
    () => `\`${words()} * ${words()}\``,
    () => `[${inside().replace(/[[\]]|https?:\S+|<\S+>/g, "")}](https://example.com/${choose(100)})`,
    () => `https://example.com/a_${choose(9)} `,
    () => "&amp;",
    () => "\\*",
    () => "a<br>b",
  ];
  return Array.from({ length: 1 + choose(4) }, () => parts[choose(depth ? 5 : parts.length)]?.() ?? "").join(" ");
}

/** A text of a few blocks. */
export function generate(choose: Choose): string {
  const line = (): string => `W ${inline(choose)}`;
  const cell = (): string => inline(choose, 2).replaceAll("|", "");
  const blocks = [
    line,
    () => `${line()}\n${line()}`,
    () => `${"#".repeat(1 + choose(4))} ${line()}`,
    () => Array.from({ length: 1 + choose(3) }, () => `- ${line()}`).join("\n"),
    () => Array.from({ length: 1 + choose(3) }, (_, n) => `${n + 1}. ${line()}\n   - ${line()}`).join("\n"),
    () => Array.from({ length: 1 + choose(3) }, () => `- [${choose(2) ? "x" : " "}] ${line()}`).join("\n"),
    () => `> ${line()}\n> ${line()}`,
    () => `\`\`\`python\n${inline(choose)}\n# | * \`\n\`\`\``,
    () => `| ${cell()} | ${cell()} |\n|---|:-:|\n| ${cell()} | ${cell()} |\n| ${cell()} | |`,
    () => "---",
  ];
  return Array.from({ length: 2 + choose(3) }, () => blocks[choose(blocks.length)]?.() ?? "").join("\n\n");
}
