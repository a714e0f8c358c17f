/** The files of messages, for display. */

import type { HistoryMessage, ListedFile } from "../protocol/messages.js";

const NO_FILES: readonly ListedFile[] = [];

/** The files with these ids. A file that is not among the known ones has no name, and a size of 0. */
export function attachedFiles(
  { attachments = [] }: Pick<HistoryMessage, "attachments">,
  known: readonly ListedFile[] = NO_FILES,
): readonly ListedFile[] {
  if (attachments.length === 0) return NO_FILES;
  return attachments.map((file_id) => known.find((file) => file.file_id === file_id) ?? unknownFile(file_id));
}

/** Images that a page may show: others, as SVG, may have scripts. */
const IMAGES: ReadonlySet<string> = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"]);

/** Whether a browser can show a file with this media type as an image, without running anything in it. */
export const isImage = (media_type: string): boolean => IMAGES.has(essenceOf(media_type));

/** A media type with which nothing in a file is run or rendered as a page. */
export function safeType(media_type: string): string {
  const essence = essenceOf(media_type);
  return isImage(essence) || /^(audio|video)\//.test(essence) ? essence : OPAQUE;
}

/** A media type without its parameters. */
const essenceOf = (media_type: string): string => (media_type.split(";")[0] ?? "").trim().toLowerCase();

const OPAQUE = "application/octet-stream";

const unknownFile = (file_id: string): ListedFile => ({ file_id, name: "", media_type: OPAQUE, bytes: 0 });
