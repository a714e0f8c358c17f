/** The Markdown of the chat page, rendered. */

import type { SyntaxNode, Tree } from "@lezer/common";
import { act, type ComponentType, type ReactElement } from "react";
import { createRoot } from "react-dom/client";

type Markdown = ComponentType<{ text: string; isWriting: boolean }>;

// The page's sources have a configuration of the type checker of their own.
const load = (name: string): Promise<unknown> => {
  const source = new URL(`../../pages/chat/markdown/${name}`, import.meta.url).pathname;
  return import(/* @vite-ignore */ source);
};

interface Modules {
  readonly BlockReader: new () => { read(text: string): Tree };
  readonly OuterBlocks: new () => { read(text: string, tree: Tree, isGrowing: boolean): readonly OuterBlock[] };
  readonly parseInline: (text: string) => SyntaxNode | null;
  readonly splitText: (text: string) => string[];
  readonly unfinished: (text: string) => { readonly text: string };
  readonly endOfBlocks: (text: string, tree: Tree) => number;
  readonly Highlighter: new () => { read(text: string, name: string): readonly (readonly Piece[])[] };
  readonly fileName: (language: string) => string;
}
type OuterBlock = ReactElement<{ readonly text: string; readonly node: SyntaxNode }>;
interface Piece {
  readonly text: string;
  readonly kind: string | null;
}

/** What the components are made with. */
export async function modules(): Promise<Modules> {
  const names = ["Blocks.tsx", "parser.ts", "text.ts", "unfinished.ts", "highlight.ts", "fileName.ts"];
  return Object.assign({}, ...(await Promise.all(names.map(load)))) as Modules;
}

export interface View {
  readonly element: HTMLElement;
  show(text: string, isWriting: boolean): Promise<void>;
  /** The text that is visible, without white space and without the titles of code. */
  visible(): string;
  end(): Promise<void>;
}

export async function render(text: string, isWriting = false): Promise<View> {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  (globalThis as { ResizeObserver?: unknown }).ResizeObserver ??= class {
    observe(): void {}
    disconnect(): void {}
  };
  const { Markdown } = (await load("Markdown.tsx")) as { Markdown: Markdown };
  const element = document.body.appendChild(document.createElement("div"));
  const root = createRoot(element);
  const show = (shown: string, writes: boolean): Promise<void> =>
    act(async () => root.render(<Markdown text={shown} isWriting={writes} />));
  await show(text, isWriting);
  return {
    element,
    show,
    visible() {
      let found = "";
      const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        if (!node.parentElement?.closest("figcaption")) found += node.textContent ?? "";
      }
      return found.replace(/\s+/g, "");
    },
    async end() {
      await act(async () => root.unmount());
      element.remove();
    },
  };
}
