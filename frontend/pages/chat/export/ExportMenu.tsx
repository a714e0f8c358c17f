// The menu of the open conversation: copied or downloaded as Markdown, and printed, each as a whole.

import { useEffect, useRef, useState } from "react";
import { RequestError } from "../../../src/index.ts";
import { useNetraClient } from "../../../src/react/index.ts";
import { CopyIcon, DownloadIcon } from "../../shared/icons.tsx";
import { Menu } from "../../shared/Menu.tsx";
import { saveText } from "../../shared/saveText.ts";
import { titleOfAgent } from "../agents/useAgents.ts";
import { useActions } from "../composer/actions.ts";
import { explain } from "../../shared/errorText.ts";
import { PrintIcon } from "./icons.tsx";
import { loadAll } from "./loadAll.ts";
import { conversationMarkdown, fileNameOf } from "./markdown.ts";

const SHOWN_MS = 4_000; // that a result is shown

interface Status {
  readonly text: string;
  readonly isOver: boolean;
}

export function ExportMenu({ title }: { title: string }) {
  const { threadId } = useActions();
  const client = useNetraClient();
  const [status, setStatus] = useState<Status | null>(null);
  /** The conversation on the page. */
  const shown = useRef<string | null>(null);
  useEffect(() => {
    shown.current = threadId;
    return () => {
      shown.current = null;
    };
  }, [threadId]);
  useEffect(() => {
    if (status?.isOver !== true) return undefined;
    const timer = setTimeout(() => setStatus(null), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [status]);

  const load = async () => {
    setStatus({ text: "Loading the whole conversation…", isOver: false });
    // The state has the messages of the threads that are open or watched; the user may open another one.
    const leave = client.watchThread(threadId);
    try {
      await loadAll(client, threadId, (count) =>
        setStatus({ text: `Loading the whole conversation… ${count} earlier messages`, isOver: false }),
      );
      const { messages, session } = client.getSnapshot();
      return conversationMarkdown(title, messages, threadId, (name) => titleOfAgent(session?.agents ?? [], name));
    } finally {
      leave();
    }
  };
  /** @param work Returns what to tell the user. */
  const run = (work: () => Promise<string>) => {
    // One after the other: the menu stays usable, but a second export of a long thread would not help.
    if (status?.isOver === false) return;
    work().then(
      (text) => setStatus(text === "" ? null : { text, isOver: true }),
      (error: unknown) => {
        const reason = error instanceof RequestError ? explain(error.body).text : "The browser did not allow it.";
        setStatus({ text: `This did not work. ${reason}`, isOver: true });
      },
    );
  };
  return (
    <>
      <p role="status" className={status === null ? "only-read" : "export-status"}>{status?.text}</p>
      <Menu
        label="Conversation"
        items={[
          {
            text: "Copy as Markdown",
            icon: <CopyIcon />,
            onPick: () =>
              run(async () => {
                await copyLater(load());
                return "Copied as Markdown";
              }),
          },
          {
            text: "Download as Markdown",
            icon: <DownloadIcon />,
            onPick: () =>
              run(async () => {
                saveText(await load(), fileNameOf(title), "text/markdown");
                return "Downloaded";
              }),
          },
          {
            text: "Print",
            icon: <PrintIcon />,
            onPick: () =>
              run(async () => {
                await load();
                // Rendered before the browser takes the page.
                await new Promise((resolve) => requestAnimationFrame(() => resolve(null)));
                if (shown.current === threadId) print();
                return "";
              }),
          },
        ]}
      />
    </>
  );
}

/** Copies a text that is not loaded yet: a browser permits that only while it handles the click. */
async function copyLater(text: Promise<string>): Promise<void> {
  if (typeof ClipboardItem === "undefined") {
    const content = await text;
    return navigator.clipboard.writeText(content);
  }
  const blob = text.then((content) => new Blob([content], { type: "text/plain" }));
  blob.catch(() => undefined); // Without https there is no clipboard that would handle it.
  return navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
}
