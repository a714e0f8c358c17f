// Downloads a file by the browser, which then shows its progress and needs no memory for it.

import { useCallback, useState } from "react";
import { RequestError } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { explain } from "../../shared/errorText.ts";

interface Download {
  readonly download: () => void;
  /** Why the last attempt failed. */
  readonly problem: string | null;
}

export function useDownload(fileId: string, name: string): Download {
  const fileAddress = useNetra((netra) => netra.fileAddress);
  const [problem, setProblem] = useState<string | null>(null);
  const download = useCallback(() => {
    setProblem(null);
    fileAddress(fileId).then(
      (address) => follow(address, name),
      (error: unknown) => {
        if (!(error instanceof RequestError)) throw error;
        const { text, help } = explain(error.body);
        setProblem(`${text} ${help}`.trim());
      },
    );
  }, [fileAddress, fileId, name]);
  return { download, problem };
}

/** The server sends a file as an attachment, so the page stays open. */
function follow(address: string, name: string): void {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}
