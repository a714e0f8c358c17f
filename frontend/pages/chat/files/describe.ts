// Texts about files for the user.

import type { ErrorBody, ListedFile, UploadItem, UserEntry } from "../../../src/index.ts";
import { explain } from "../../shared/errorText.ts";

const UNITS = ["bytes", "KB", "MB", "GB"];

/** A size for display: `1 byte`, `340 bytes`, `1.4 MB`. */
export function sizeText(bytes: number): string {
  if (bytes === 1) return "1 byte";
  let [value, unit] = [bytes, 0];
  // A value that would be shown as 1000 is shown as 1 of the next unit.
  for (; value >= 999.5 && unit < UNITS.length - 1; unit += 1) value /= 1000;
  const digits = unit > 0 && value < 9.95 ? 1 : 0;
  return `${value.toLocaleString("en", { maximumFractionDigits: digits })} ${UNITS[unit]}`;
}

const TYPES: Readonly<Record<string, string>> = {
  "application/pdf": "PDF",
  "application/json": "JSON",
  "application/zip": "ZIP archive",
  "application/gzip": "GZIP archive",
  "image/svg+xml": "SVG image",
  "image/jpeg": "JPEG image",
  "text/plain": "Text",
  "text/html": "HTML",
  "text/csv": "CSV",
  "text/markdown": "Markdown",
  "application/octet-stream": "",
};
const KINDS: Readonly<Record<string, string>> = { image: "image", audio: "sound", video: "video" };

/** The type of a file for display: as the server has detected it, not as its name says. */
export function typeText({ name, media_type }: Pick<ListedFile, "name" | "media_type">): string {
  const [essence = ""] = media_type.toLowerCase().split(";");
  const known = TYPES[essence.trim()];
  if (known !== undefined && known !== "") return known;
  const [kind = "", format = ""] = essence.trim().split("/");
  const word = KINDS[kind];
  if (word !== undefined) return `${format.replace(/^x-|\+.*$/g, "").toUpperCase()} ${word}`;
  const extension = /\.([A-Za-z0-9]{1,5})$/.exec(name)?.[1];
  return extension === undefined ? "File" : `${extension.toUpperCase()} file`;
}

export const nameText = (file: Pick<ListedFile, "name" | "media_type">) => file.name || typeText(file);

/** Type and size; a file that the client does not know has a size of 0. */
export const detailsText = (file: Pick<ListedFile, "name" | "media_type" | "bytes">) =>
  file.bytes === 0 ? typeText(file) : `${typeText(file)}, ${sizeText(file.bytes)}`;

/** The text of a message that has only files: the server stores no message without text. */
export const textOfFiles = (files: readonly Pick<ListedFile, "name" | "media_type">[]) => files.map(nameText).join(", ");

/** Whether the text of a message only names its files. */
export const isOnlyFiles = ({ content, attachments }: Pick<UserEntry, "content" | "attachments">) =>
  attachments.length > 0 && content === textOfFiles(attachments);

/** Texts for files, where those of `explain` are about messages. */
const UPLOAD: Readonly<Record<string, string>> = {
  NOT_SUPPORTED: "This server accepts no files.",
  TOO_MANY_FILES: "A message has at most 16 files.",
  FILE_UNREADABLE: "This file was changed or removed. Choose it again.",
  RATE_LIMIT_EXCEEDED: "There are too many uploads at once. The upload continues in a moment.",
  QUEUE_FULL: "Your files have used up their space. Delete conversations that have files.",
  NO_ANSWER: "The connection was lost.",
};

/** Why a file was not uploaded. */
export function uploadProblem(error: ErrorBody, { bytes }: Pick<UploadItem, "bytes">, maxSize: number | undefined): string {
  if (error.code === "MESSAGE_TOO_LARGE") {
    if (maxSize === undefined || bytes <= maxSize) return "This file is too large.";
    const isClose = sizeText(bytes) === sizeText(maxSize);
    const [size, most] = [bytes, maxSize].map((value) => (isClose ? `${value.toLocaleString("en")} bytes` : sizeText(value)));
    return `This file is too large: ${size}, at most ${most} are allowed.`;
  }
  const { text, help } = explain(error);
  return UPLOAD[error.code] ?? `${text} ${help}`.trim();
}
