// The files of the message that is being written, above its box.

import { useCallback, useState } from "react";
import type { UploadItem } from "../../../src/index.ts";
import { isImage, isUnderWay } from "../../../src/index.ts";
import { type Uploads, useFileUrl, useNetra } from "../../../src/react/index.ts";
import { CloseIcon, RetryIcon } from "../../shared/icons.tsx";
import { detailsText, nameText, sizeText, uploadProblem } from "./describe.ts";
import { FileIcon } from "./icons.tsx";

/** Errors that another attempt would get again. */
const PERMANENT = new Set(["MESSAGE_TOO_LARGE", "FILE_UNREADABLE", "NOT_SUPPORTED"]);

export function UploadStrip({ uploads, remove, retry }: Pick<Uploads, "uploads" | "remove" | "retry">) {
  const maxSize = useNetra((netra) => netra.config?.connection_limits.max_file_size);
  const problemOf = ({ error, bytes }: UploadItem) => (error === null ? null : uploadProblem(error, { bytes }, maxSize));
  return (
    <>
      <p role="status" className="only-read">{summary(uploads, problemOf)}</p>
      {uploads.length > 0 && (
        <ul className="uploads" aria-label="Files of this message">
          {uploads.map((item) => (
            <li key={item.key} className={`upload ${item.status}`}>
              <Preview item={item} />
              <div className="file-text">
                <p className="file-name" dir="auto" title={nameText(item)}>{nameText(item)}</p>
                <State item={item} problem={problemOf(item)} />
              </div>
              {item.status === "failed" && !PERMANENT.has(item.error?.code ?? "") && (
                <button type="button" className="square" aria-label={`Try ${nameText(item)} again`} title="Try again" onClick={() => retry(item.key)}>
                  <RetryIcon />
                </button>
              )}
              <button type="button" className="square" aria-label={`Remove ${nameText(item)}`} title="Remove" onClick={() => remove(item.key)}>
                <CloseIcon />
              </button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function State({ item, problem }: { item: UploadItem; problem: string | null }) {
  const { status, sent, bytes, retry } = item;
  if (status === "done") return <p className="note">{detailsText(item)}</p>;
  if (status === "failed") return <p className="fault">{problem}</p>;
  const percent = bytes === 0 ? 0 : Math.floor((sent / bytes) * 100);
  const text = { waiting: "Waits for other uploads", uploading: `${percent} % of ${sizeText(bytes)}`, retrying: retryText(retry) }[status];
  return (
    <>
      <p className="note">{text}</p>
      <progress max={100} value={percent} aria-label={`Upload of ${nameText(item)}`} />
    </>
  );
}

const retryText = (retry: UploadItem["retry"]) =>
  retry?.error.code === "RATE_LIMIT_EXCEEDED" ? "Continues in a moment" : "The upload broke off and begins again";

/** The text that a screen reader reads when an upload ends. */
function summary(uploads: readonly UploadItem[], problemOf: (item: UploadItem) => string | null): string {
  if (uploads.length === 0) return "";
  const done = uploads.filter(({ status }) => status === "done").length;
  const faults = uploads.flatMap((item) => {
    const problem = problemOf(item);
    return problem === null ? [] : [`${nameText(item)}: ${problem}`];
  });
  const files = uploads.length === 1 ? "file is" : "files are";
  return [uploads.some(isUnderWay) || done > 0 ? `${done} of ${uploads.length} ${files} uploaded.` : "", ...faults].join(" ").trim();
}

/** The image itself before it is uploaded; after a reload as the server has it. */
function Preview({ item: { source, file, media_type } }: { item: UploadItem }) {
  const [isBroken, setBroken] = useState(false);
  const isStored = source === null && file !== null && isImage(file.media_type);
  const { url } = useFileUrl(isStored && !isBroken ? file : null);
  const isLocal = source !== null && isImage(media_type);
  const picture = { alt: "", draggable: false, onError: () => setBroken(true) };
  const show = useCallback(
    (image: HTMLImageElement | null) => {
      if (image === null) return undefined;
      const address = URL.createObjectURL(source as unknown as Blob);
      image.src = address;
      return () => URL.revokeObjectURL(address);
    },
    [source],
  );
  return (
    <span className="preview">
      {isLocal && !isBroken ? <img ref={show} {...picture} /> : url === null ? <FileIcon /> : <img src={url} {...picture} />}
    </span>
  );
}
