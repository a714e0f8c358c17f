/** The hooks for files: those of a message that is being written, and those of messages that are shown. */

import { useEffect, useMemo, useState, useSyncExternalStore } from "react";
import { RequestError, type NetraClient, type UploadList } from "../client/api.js";
import { problemIn } from "../connection/opening.js";
import { safeType } from "../core/attachments.js";
import { localError } from "../core/retry-rules.js";
import { isUnderWay, type UploadItem } from "../core/uploads.js";
import type { ErrorBody, ListedFile } from "../protocol/messages.js";
import { useNetraClient } from "./hooks.js";

export interface Uploads extends Pick<UploadList, "add" | "remove" | "retry" | "clear"> {
  readonly uploads: readonly UploadItem[];
  /** Whether one of them is neither done nor failed. */
  readonly isUploading: boolean;
  /** Of those that are done: for the `attachments` of a message. */
  readonly fileIds: readonly string[];
}

const NONE: readonly UploadItem[] = [];

/**
 * The files of a message that is being written. The component renders again with their progress.
 *
 *     const { add, fileIds, clear } = useUploads();
 *
 * @param shared A list that outlives the component. Without it, the component has one of its own, whose
 *   uploads end with it.
 */
export function useUploads(shared?: UploadList): Uploads {
  const client = useNetraClient();
  const list = useMemo(() => shared ?? client.createUploads(), [client, shared]);
  useEffect(() => (shared === undefined ? () => list.clear() : undefined), [list, shared]);
  const uploads = useSyncExternalStore(list.subscribe, list.getSnapshot, () => NONE);
  return useMemo(
    () => ({
      uploads,
      isUploading: uploads.some(isUnderWay),
      fileIds: uploads.flatMap(({ file }) => file?.file_id ?? []),
      add: (files) => list.add(files),
      remove: (key) => list.remove(key),
      retry: (key) => list.retry(key),
      clear: () => list.clear(),
    }),
    [list, uploads],
  );
}

export interface FileUrl {
  /** Null until the file is read. */
  readonly url: string | null;
  readonly error: ErrorBody | null;
}

const UNREAD: FileUrl = { url: null, error: null };

/**
 * An address in this page for a file, for example for `<img src>`; revoked once the component does not
 * use it any more. Only images without scripts, sound and video keep their media type, so the address
 * is safe for a link, too.
 *
 * @param file Null: none is read.
 */
export function useFileUrl(file: Pick<ListedFile, "file_id" | "media_type"> | null): FileUrl {
  const client = useNetraClient();
  const fileId = file?.file_id ?? null;
  const mediaType = file?.media_type ?? "";
  const [read, setRead] = useState<{ readonly fileId: string; readonly value: FileUrl } | null>(null);
  useEffect(() => {
    if (fileId === null) return undefined;
    const control = new AbortController();
    let url: string | null = null;
    readFile(client, fileId, mediaType, control.signal).then(
      (blob) => {
        if (control.signal.aborted) return;
        url = URL.createObjectURL(blob);
        setRead({ fileId, value: { url, error: null } });
      },
      (error: unknown) => {
        if (control.signal.aborted) return;
        if (!(error instanceof RequestError)) throw error;
        setRead({ fileId, value: { url: null, error: error.body } });
      },
    );
    return () => {
      control.abort();
      if (url !== null) URL.revokeObjectURL(url);
      setRead(null);
    };
  }, [client, fileId, mediaType]);
  return read?.fileId === fileId ? read.value : UNREAD;
}

/** Rejects with `RequestError`. */
async function readFile(client: NetraClient, fileId: string, mediaType: string, signal: AbortSignal): Promise<Blob> {
  const bytes = client.fileBytes(fileId);
  if (bytes !== null) return new Blob([bytes], { type: safeType(mediaType) });
  const { url, headers } = await client.fileRequest(fileId);
  let result: Blob | ErrorBody;
  try {
    const answer = await fetch(url, { headers, credentials: "omit", signal });
    result = answer.ok ? await answer.blob() : (problemIn(await answer.text()) ?? unread(`HTTP_${answer.status}`));
  } catch {
    result = unread("NO_ANSWER");
  }
  if (!(result instanceof Blob)) throw new RequestError(result);
  return result.slice(0, result.size, safeType(result.type));
}

const unread = (code: string): ErrorBody => localError(Date.now(), code, "The file could not be read.", "Try again.");
