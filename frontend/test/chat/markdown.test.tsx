/** What the Markdown of the chat page looks like as elements. */

import { act } from "react";
import { afterEach, describe, expect, it, vi } from "vitest";
import { chooser } from "../support/markdown.js";
import { type View, modules, render } from "../support/page.js";

const { fileName, Highlighter } = await modules();

let view: View;
const html = async (text: string, isWriting = false): Promise<string> => {
  view = await render(text, isWriting);
  return view.element.innerHTML
    .replace(/^<div class="[^"]*">|<\/div>$/g, "")
    .replaceAll(' dir="auto"', "")
    .replaceAll(' target="_blank" rel="noopener noreferrer"', "")
    .replace(/ title="[^"]*"/g, "");
};
afterEach(async () => {
  vi.unstubAllGlobals();
  await view.end();
});

describe("inline marks", () => {
  it.each([
    ["**a** _b_ ~~c~~ `d*`", "<p><strong>a</strong> <em>b</em> <del>c</del> <code dir=\"ltr\">d*</code></p>"],
    ["2*3*4 and a_b_c and ~5 to ~6", "<p>2*3*4 and a_b_c and ~5 to ~6</p>"],
    ["这是**重点：**后面", "<p>这是<strong>重点：</strong>后面</p>"],
    ["a\nb", "<p>a<br>b</p>"],
    ["a<br>b<BR/>c <b>d</b>", "<p>a<br>b<br>c &lt;b&gt;d&lt;/b&gt;</p>"],
    ["&lt;b&gt; &#65; &nope; \\*", "<p>&lt;b&gt; A &amp;nope; *</p>"],
    ["[a](https://e.com/x)", '<p><a href="https://e.com/x">a</a></p>'],
    ["[a](javascript:alert(1)) [b](data:text/html,x) [c](/x)", '<p><span class="no-link">a</span> <span class="no-link">b</span> <span class="no-link">c</span></p>'],
    ["<https://e.com/> me@e.com", '<p><a href="https://e.com/" dir="ltr" class="shows-address">https://e.com/</a> <a href="mailto:me@e.com" dir="ltr" class="shows-address">me@e.com</a></p>'],
    ["![a cat](https://e.com/c.png)", '<p><a href="https://e.com/c.png">image: a cat</a></p>'],
    ["[a][1] [2] [3]\n\n[1]: https://e.com/1\n[2]: <https://e.com/2>", '<p><a href="https://e.com/1">a</a> <a href="https://e.com/2">2</a> [3]</p>'],
    ["a[^1]\n\n[^1]: b", '<p>a<sup>1</sup></p><p class="footnote"><sup>1</sup> b</p>'],
  ])("%s", async (text, expected) => expect(await html(text)).toBe(expected));

  it.each(["\\(a_1 * b_2 * c\\)", "\\[\n\\frac{a_1}{b_1} *x*\n\\]", "$a_1 + b_1$", "$$\n*a* _b_\n$$"])("leaves the formula %s as it is", async (text) => {
    view = await render(text);
    expect(view.element.querySelector(".math")?.textContent).toBe(text);
    expect(view.element.querySelector("em")).toBeNull();
  });

  it("takes two prices for two prices", async () => {
    expect(await html("$5 is *less* than $6, or 7$")).toBe("<p>$5 is <em>less</em> than $6, or 7$</p>");
  });
});

describe("blocks", () => {
  it.each([
    ["# a\n\n## b ##\n\nc\n---", "<h2>a</h2><h3>b</h3><h3>c</h3>"],
    ["- a\n- b\n\n- c", '<ul dir="ltr"><li><p>a</p></li><li><p>b</p></li><li class="apart"><p>c</p></li></ul>'],
    ["3. a\n4. b", '<ol dir="ltr" start="3"><li><p>a</p></li><li><p>b</p></li></ol>'],
    ["- [x] a", '<ul dir="ltr"><li class="task"><p><span class="checkbox" role="img" aria-label="done">☑</span> a</p></li></ul>'],
    ["> a\n> b\n> - c", '<blockquote dir="ltr"><p>a<br>b</p><ul dir="ltr"><li><p>c</p></li></ul></blockquote>'],
    ["<div>\n**a**\n</div>", '<p class="plain">&lt;div&gt;\n**a**\n&lt;/div&gt;</p>'],
    ["---", "<hr>"],
  ])("%s", async (text, expected) => expect(await html(text)).toBe(expected));

  it("aligns the columns of a table, and gives long texts room", async () => {
    view = await render(`| a | b | c | d |\n|---|:--|:-:|--:|\n| 1 \\| 2 | | x | ${"y ".repeat(40)}|\n| short |`);
    const cells = [...view.element.querySelectorAll("td")].map(({ textContent, className }) => [textContent, className]);
    expect(cells).toEqual([["1 | 2", ""], ["", "align-start"], ["x", "align-center"], ["y ".repeat(40).trim(), "align-end long"], ["short", ""]]);
    expect(view.element.querySelector("[role=group]")?.getAttribute("tabindex")).toBe("0");
  });

  it("has the direction of each block's text", async () => {
    view = await render("- מילה\n- word\n\n> العربية\n\n| a |\n|---|\n| ب |\n\n```\nכ\n```");
    const directions = [...view.element.querySelectorAll("ul, blockquote, .table, pre")].map((found) => found.getAttribute("dir"));
    expect(directions).toEqual(["rtl", "rtl", "ltr", "ltr"]);
    expect([...view.element.querySelectorAll("p, th, td")].every((found) => found.getAttribute("dir") === "auto")).toBe(true);
  });

  it.each([
    ["list", "- item **b**\n".repeat(400), "li strong"],
    ["table", `| a |\n|---|\n${"| **b** |\n".repeat(400)}`, "td strong"],
    ["paragraph", "word **b**. ".repeat(400), "p strong"],
    ["quote", "> **b**\n>\n".repeat(400), "blockquote strong"],
  ])("formats a long %s", async (_, text, selector) => {
    view = await render(text);
    expect(view.element.querySelectorAll(selector)).toHaveLength(400);
    expect(view.element.textContent).not.toContain("**");
  });

  it("shows what is nested too deeply as text", async () => {
    view = await render(`${"> ".repeat(200)}deep\n\nafter`);
    expect(view.element.querySelectorAll("blockquote").length).toBeLessThan(50);
    expect(view.visible()).toMatch(/^>+deepafter$/);
  });
});

describe("the end of a text that grows", () => {
  it.each([
    ["a **b", "<p>a <strong>b</strong></p>"],
    ["a ***b *c", "<p>a <em><strong>b <em>c</em></strong></em></p>"],
    ["a `b *c", "<p>a <code dir=\"ltr\">b *c</code></p>"],
    ["a [b *c*](https://e", '<p>a <span class="no-link">b <em>c</em></span></p>'],
    ["a [b", "<p>a</p>"],
    ["a &am", "<p>a</p>"],
    ["a\n\n| b | c |\n|--", "<p>a</p>"],
    ["a\n-", "<p>a</p>"],
    ["a\n\n```py", "<p>a</p>"],
    ["a **b*", "<p>a <strong>b</strong></p>"],
  ])("%s", async (text, expected) => expect((await html(text, true)).replaceAll(' class="open"', "")).toBe(expected));

  it.each(["a **b", "a [b](c", "| a |\n|--", "a\n- [", "x `y", "\\"])("is shown as it is when the run has ended: %s", async (text) => {
    view = await render(text, true);
    await view.show(text, false);
    expect(view.visible()).toBe(text.replace(/\s|^- /gm, "").replace("a-[", "a["));
  });

  it("brings back a mark that turns out to be none, with the end of its paragraph", async () => {
    expect((await html("a **b", true))).toContain("<strong>b</strong>");
    await view.show("a **b\n\nc", true);
    expect(view.visible()).toBe("a**bc");
  });

  it("makes a heading of a paragraph that is underlined", async () => {
    view = await render("Title\n=====", true);
    expect(view.element.querySelector("h2")).toBeNull();
    await view.show("Title\n=====\n", true);
    expect(view.element.querySelector("h2")?.textContent).toBe("Title");
  });

  it("does not stop the text at a bracket that stays open", async () => {
    view = await render(`from [0, 1) ${"on ".repeat(60)}`, true);
    expect(view.visible()).toContain("[0,1)onon");
  });

  it("keeps the elements of what is finished", async () => {
    const text = "# Title\n\nA **bold** word.\n\n- item\n- item\n\n| a |\n|---|\n| b |\n\n```python\nx = 1\n";
    view = await render(text, true);
    const before = [...view.element.querySelectorAll("h2, p, strong, li, th, td, pre")];
    for (let n = 0; n < 20; n += 1) await view.show(`${text}${"y = 2\n".repeat(n)}`, true);
    const after = view.element.querySelectorAll("h2, p, strong, li, th, td, pre");
    expect(before.every((element, index) => element === after[index])).toBe(true);
  });
});

describe("code", () => {
  const pieces = (text: string, name: string): string => {
    const chunks = new Highlighter().read(text, name);
    return chunks.flat().map((piece) => (piece.kind ? `<${piece.kind}:${piece.text}>` : piece.text)).join("");
  };

  it("is highlighted", () => {
    expect(pieces('def f(x):\n  return "a" # b\n', "python")).toBe('<keyword:def> <call:f>(x):\n  <keyword:return> <string:"a"> <comment:# b>\n');
    expect(pieces("anything 1", "unknown")).toBe("anything 1");
  });

  it("is highlighted in the same way when it grows, and its finished chunks stay", () => {
    const choose = chooser(7);
    const parts = ["def f():\n", "x = '''\n", "'''\n", "# it's\n", 'a = "b"\n', "return g(1)\n", "\n", "`t ${x}`\n", "/* c\n", "*/\n", "'"];
    for (const name of ["python", "ts", "bash", "sql", "rust", ""]) {
      const text = Array.from({ length: 300 }, () => parts[choose(parts.length)]).join("");
      const growing = new Highlighter();
      let first: unknown;
      for (let end = 0; end < text.length; end += 37) {
        const chunks = growing.read(text.slice(0, end), name);
        if (chunks.length > 2) expect(chunks[0]).toBe((first ??= chunks[0]));
      }
      const join = (chunks: ReturnType<typeof growing.read>): string => chunks.flat().map(({ text: piece, kind }) => `${kind ?? ""}${piece}`).join("|");
      const whole = new Highlighter().read(text, name);
      expect(join(growing.read(text, name))).toBe(join(whole));
      expect(whole.flat().map((piece) => piece.text).join("")).toBe(text);
    }
  });

  it("of many lines renders only the last ones again", async () => {
    const text = `\`\`\`python\n${"value = call(1)  # so\n".repeat(1_000)}`;
    view = await render(text, true);
    const chunks = [...view.element.querySelectorAll(".lines")];
    expect(chunks.length).toBeGreaterThan(20);
    await view.show(`${text}x = 1\ny`, true);
    const after = view.element.querySelectorAll(".lines");
    expect(chunks.slice(0, -1).every((chunk, index) => chunk === after[index])).toBe(true);
    expect(view.element.querySelector("code")?.textContent).toMatch(/so\nx = 1\ny$/);
  });

  it.each([["python", "code.py"], ["TypeScript", "code.ts"], ["../../x", "code.txt"], ["__proto__", "code.txt"], ["", "code.txt"]])(
    "in %s is saved as %s",
    (language, name) => expect(fileName(language)).toBe(name),
  );

  it("is saved as a file", async () => {
    vi.useFakeTimers();
    const saved: [string, string][] = [];
    let blob: Blob | undefined;
    const revoke = vi.fn();
    Object.assign(URL, { createObjectURL: (found: Blob) => ((blob = found), "blob:1"), revokeObjectURL: revoke });
    vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function (this: HTMLAnchorElement) {
      saved.push([this.href, this.download]);
    });
    view = await render("```python title=../x\nx = 1\n```");
    const button = view.element.querySelector<HTMLButtonElement>("[aria-label='Download code.py']");
    await act(async () => button?.click());
    expect(saved).toEqual([["blob:1", "code.py"]]);
    expect(blob?.size).toBe("x = 1".length);
    vi.runAllTimers();
    expect(revoke).toHaveBeenCalledWith("blob:1");
    vi.useRealTimers();
    vi.restoreAllMocks();
  });
});
