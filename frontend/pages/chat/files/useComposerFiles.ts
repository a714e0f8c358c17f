// The files of the message in the box: chosen, pasted or dropped, and uploaded while the user writes.

import { useCallback, useEffect, useMemo, useSyncExternalStore } from "react";
import type { FileSource, UploadList } from "../../../src/index.ts";
import { type Uploads, useNetra, useNetraClient, useUploads } from "../../../src/react/index.ts";
import { drafts } from "../composer/useDraft.ts";
import { useDroppedFiles, usePastedFiles } from "./incoming.ts";
import { forgetLost, lostFiles, uploadsOf } from "./uploadLists.ts";

export interface ComposerFiles extends Uploads {
  readonly list: UploadList;
  /** Whether the server takes files. */
  readonly isOffered: boolean;
  /** Whether files are dragged over the page. */
  readonly isOver: boolean;
  /** Whether one of them could not be uploaded. */
  readonly hasFailed: boolean;
  /** The names of files of an old draft that the server has deleted; "" if there are none. */
  readonly lost: string;
  readonly forgetLost: () => void;
}

export function useComposerFiles(user: string, threadId: string): ComposerFiles {
  const client = useNetraClient();
  const { list, show } = useMemo(() => uploadsOf(client, user, threadId), [client, user, threadId]);
  useEffect(() => show(), [show]);
  const uploads = useUploads(list);
  const isOffered = useNetra((netra) => netra.config?.connection_limits.max_file_size !== undefined);
  const onFiles = useCallback((files: readonly FileSource[]) => list.add(files), [list]);
  usePastedFiles(isOffered ? onFiles : null);
  const isOver = useDroppedFiles(isOffered ? onFiles : null);
  const lost = useSyncExternalStore(drafts.subscribe, () => lostFiles(drafts.files(user, threadId)).join(", "));
  return {
    ...uploads,
    list,
    isOffered,
    isOver,
    hasFailed: uploads.uploads.some(({ status }) => status === "failed"),
    lost,
    forgetLost: () => forgetLost(user, threadId),
  };
}
