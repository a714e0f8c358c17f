// A page with the client of AG-UI in a real browser: an approval, and a stop.
// Argument: {"url", "token", "source", "image"}. `source` is the source of the page, and `image`
// the file of a picture of it. Prints what the page showed.

import { createServer } from "node:http";
import chromium from "@sparticuz/chromium";
import { build } from "esbuild";
import { chromium as playwright } from "playwright-core";

const { url, token, source, image } = JSON.parse(process.argv[2]);
const STYLE = `
  body { margin: 0; background: #f4f5f7; color: #1c2430; font: 15px/1.5 sans-serif; }
  main { box-sizing: border-box; display: flex; flex-direction: column; gap: 10px; max-width: 640px;
    min-height: 100vh; margin: auto; padding: 20px; background: #fff; }
  h1 { margin: 0 0 6px; font-size: 17px; }
  .user { align-self: end; padding: 8px 14px; border-radius: 14px; background: #1f5fbf; color: #fff; }
  .assistant { white-space: pre-wrap; }
  .reasoning { color: #667; font-style: italic; }
  .call, .interrupt { display: flex; gap: 10px; align-items: center; padding: 8px 12px;
    border: 1px solid #d5d9e0; border-radius: 8px; }
  .call span { margin-left: auto; color: #2b7a3d; }
  .interrupt { border-color: #d99a1c; background: #fff8e8; }
  [role="status"] { min-height: 1.5em; margin: 0; color: #a33; }
  form { display: flex; gap: 8px; margin-top: auto; }
  input { flex: 1; } input, button { padding: 8px 12px; border: 1px solid #b9c0cb; border-radius: 8px; font: inherit; }
  button { background: #eef2f8; cursor: pointer; }`;

const options = { bundle: true, format: "esm", write: false, jsx: "automatic", logLevel: "silent" };
const stdin = { contents: source, loader: "jsx", resolveDir: import.meta.dirname };
const { outputFiles } = await build({ ...options, stdin, define: { "process.env.NODE_ENV": '"production"' } });
const settings = JSON.stringify({ url, token });
const html = `<!doctype html><html lang="en"><meta charset="utf-8"><title>AG-UI</title><style>${STYLE}</style>
  <div id="root"></div><script>globalThis.SETTINGS = ${settings}</script><script type="module" src="/page.js"></script></html>`;
const pages = createServer((request, answer) => {
  const isScript = request.url === "/page.js";
  answer.setHeader("Content-Type", isScript ? "text/javascript" : "text/html");
  answer.end(isScript ? outputFiles[0].text : html);
});
await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve));

const off = ["--disable-web-security", "--allow-running-insecure-content", "--single-process"];
const args = chromium.args.filter((argument) => !off.includes(argument));
const browser = await playwright.launch({ executablePath: await chromium.executablePath(), args });
const page = await browser.newPage({ viewport: { width: 720, height: 560 } });
const problems = [];
page.on("pageerror", (error) => problems.push(error.message));
await page.goto(`http://localhost:${pages.address().port}/`);

async function say(text) {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

await say("Please tidy up.");
await page.getByRole("button", { name: "Approve" }).waitFor();
await page.screenshot({ path: image });
const asked = await page.locator("main").innerText();
await page.getByRole("button", { name: "Approve" }).click();
await page.getByText("It is tidy now.").waitFor();
const approved = await page.locator("main").innerText();
await say("count");
await page.getByText("1 2 3").waitFor();
await page.getByRole("button", { name: "Stop" }).click();
await page.getByText("CANCELLED").waitFor();
await page.getByRole("button", { name: "Send" }).waitFor();
await browser.close();
pages.close();
console.log(JSON.stringify({ asked, approved, problems }));
