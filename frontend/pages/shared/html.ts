// The HTML of a rendered text, for other programs: without classes, buttons and styles.

const KEPT = new Set([
  "A", "BLOCKQUOTE", "BR", "CODE", "DEL", "EM", "H2", "H3", "H4", "H5", "H6", "HR", "LI", "OL", "P", "PRE",
  "STRONG", "SUP", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL",
]);
const DROPPED = new Set(["BUTTON", "FIGCAPTION", "SVG", "svg"]);
/** What an agent did, among the texts of its answer. */
const STEPS = ".thoughts, .tools, .question, .dots";
const EMPTY = new Set(["BR", "HR"]);
const ATTRIBUTES = ["href", "start", "dir"];

/** The content of an element as HTML. */
export function plainHtml(element: Element): string {
  return [...element.childNodes].map(one).join("");
}

function one(node: Node): string {
  if (node.nodeType === Node.TEXT_NODE) return escaped(node.textContent ?? "");
  if (!(node instanceof Element) || DROPPED.has(node.tagName) || node.matches(STEPS)) return "";
  const inside = plainHtml(node);
  if (!KEPT.has(node.tagName)) return inside;
  const name = node.tagName.toLowerCase();
  const attributes = ATTRIBUTES.flatMap((attribute) => {
    const value = node.getAttribute(attribute);
    return value === null ? [] : [` ${attribute}="${escaped(value)}"`];
  }).join("");
  return EMPTY.has(node.tagName) ? `<${name}>` : `<${name}${attributes}>${inside}</${name}>`;
}

const SIGNS: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text: string) => text.replace(/[&<>"]/g, (sign) => SIGNS[sign] ?? sign);
