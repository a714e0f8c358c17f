// The files of the messages that are being written, by user and thread. They are uploaded while another
// thread is open; what is uploaded is a part of the draft, and survives a reload.

import type { ListedFile, NetraClient, UploadItem, UploadList } from "../../../src/index.ts";
import type { DraftFile } from "../composer/drafts.ts";
import { drafts } from "../composer/useDraft.ts";
import { onForgotten } from "../../shared/userData.ts";

/** The server deletes a file that no message names after 24 hours. */
const KEPT_MS = 23 * 3_600_000;

const lists = new WeakMap<NetraClient, Map<string, UploadList>>();
/** The newest list of each thread, which alone is a part of the draft: of the current client. */
const current = new Map<string, UploadList>();

/** The list of a thread: the same one as long as the client is the same. */
export function uploadsOf(client: NetraClient, user: string, thread: string): UploadList {
  const known = lists.get(client) ?? new Map<string, UploadList>();
  lists.set(client, known);
  const name = JSON.stringify([user, thread]);
  const list = known.get(name) ?? newList(client, name, user, thread);
  known.set(name, list);
  return list;
}

function newList(client: NetraClient, name: string, user: string, thread: string): UploadList {
  const list = client.createUploads();
  const isCurrent = () => current.get(name) === list;
  const stored = () => drafts.files(user, thread);
  const take = () => {
    const listed = new Set(doneIn(list).map(({ file_id }) => file_id));
    const missing = stored().filter((file) => isKept(file) && !listed.has(file.file_id));
    if (isCurrent() && missing.length > 0) list.restore(missing.map(listedOf));
  };
  const keep = () => {
    const times = new Map(stored().map(({ file_id, at }) => [file_id, at]));
    const done = doneIn(list).map((file) => ({ ...file, at: times.get(file.file_id) ?? Date.now() }));
    const lost = stored().filter((file) => !isKept(file));
    if (isCurrent() && !isSame([...lost, ...done], stored())) drafts.writeFiles(user, thread, [...lost, ...done]);
  };
  current.set(name, list);
  take();
  list.subscribe(keep);
  // A draft is taken over from a tab that was closed.
  drafts.subscribe(take);
  onForgotten((other) => {
    if (other === user) list.clear();
  });
  return list;
}

/** The names of the files of a draft that the server has deleted by now. */
export const lostFiles = (files: readonly DraftFile[]): readonly string[] =>
  files.filter((file) => !isKept(file)).map(({ name }) => name);

/** Drops the files of a draft that the server has deleted. */
export function forgetLost(user: string, thread: string): void {
  drafts.writeFiles(user, thread, drafts.files(user, thread).filter(isKept));
}

const isKept = ({ at }: DraftFile) => Date.now() - at < KEPT_MS;

const doneIn = (list: UploadList): readonly ListedFile[] =>
  list.getSnapshot().flatMap(({ file }: UploadItem) => file ?? []);

const listedOf = ({ file_id, name, media_type, bytes }: DraftFile): ListedFile => ({ file_id, name, media_type, bytes });

const isSame = (a: readonly ListedFile[], b: readonly ListedFile[]) =>
  a.length === b.length && a.every(({ file_id }, index) => file_id === b[index]?.file_id);
