// The files of the messages that are being written, by user and thread. They are uploaded while another
// thread is open; what is uploaded is a part of the draft, and survives a reload.

import type { ListedFile, NetraClient, UploadItem, UploadList } from "../../../src/index.ts";
import type { DraftFile } from "../composer/drafts.ts";
import { drafts } from "../composer/useDraft.ts";
import { onForgotten } from "../../shared/userData.ts";

/** The server deletes a file that no message names after 24 hours. */
const KEPT_MS = 23 * 3_600_000;

/** The lists that are parts of drafts, by user and thread: those that a box shows, and those with files. */
const kept = new Map<string, DraftUploads>();

/** The list of a thread: the same one as long as the client is the same, and a box shows it or it has files. */
export function uploadsOf(client: NetraClient, user: string, thread: string): DraftUploads {
  const known = kept.get(nameOf(user, thread));
  return known?.client === client ? known : new DraftUploads(client, user, thread);
}

export class DraftUploads {
  readonly client: NetraClient;
  readonly list: UploadList;
  readonly #user: string;
  readonly #thread: string;
  /** Ends the subscriptions, while there are any. */
  #ends: readonly (() => void)[] = [];

  constructor(client: NetraClient, user: string, thread: string) {
    this.client = client;
    this.list = client.createUploads();
    this.#user = user;
    this.#thread = thread;
    this.#take();
  }

  /**
   * Makes this list the one of the draft, instead of that of another client. The returned function
   * releases it, unless it has files: their uploads continue.
   */
  readonly show = (): (() => void) => {
    this.#subscribe();
    return () => {
      if (this.list.getSnapshot().length === 0) this.#release();
    };
  };

  #subscribe(): void {
    const name = nameOf(this.#user, this.#thread);
    const before = kept.get(name);
    if (before === this) return;
    if (before !== undefined) before.#release();
    kept.set(name, this);
    this.#take();
    this.#ends = [
      this.list.subscribe(() => this.#store()),
      // A draft is taken over from a tab that was closed, or gets the files of a message that was not sent.
      drafts.subscribe(() => this.#take()),
      onForgotten((user) => {
        if (user !== this.#user) return;
        this.list.clear();
        this.#release();
      }),
    ];
  }

  #release(): void {
    for (const end of this.#ends) end();
    this.#ends = [];
    const name = nameOf(this.#user, this.#thread);
    if (kept.get(name) === this) kept.delete(name);
  }

  get #stored(): readonly DraftFile[] {
    return drafts.files(this.#user, this.#thread);
  }

  /** Adds the files of the draft to the list. */
  #take(): void {
    const listed = new Set(doneIn(this.list).map(({ file_id }) => file_id));
    const missing = this.#stored.filter((file) => isKept(file) && !listed.has(file.file_id));
    if (missing.length > 0) this.list.restore(missing.map(listedOf));
  }

  /** Stores the files of the list in the draft. */
  #store(): void {
    const stored = this.#stored;
    const times = new Map(stored.map(({ file_id, at }) => [file_id, at]));
    const done = doneIn(this.list).map((file) => ({ ...file, at: times.get(file.file_id) ?? Date.now() }));
    const lost = stored.filter((file) => !isKept(file));
    if (!isSame([...lost, ...done], stored)) drafts.writeFiles(this.#user, this.#thread, [...lost, ...done]);
  }
}

/** Adds files that the server has to a draft. */
export function addToDraft(user: string, thread: string, files: readonly ListedFile[]): void {
  const known = drafts.files(user, thread);
  const added = files.filter(({ file_id }) => !known.some((file) => file.file_id === file_id));
  const at = Date.now();
  if (added.length > 0) drafts.writeFiles(user, thread, [...known, ...added.map((file) => ({ ...listedOf(file), at }))]);
}

/** The names of the files of a draft that the server has deleted by now. */
export const lostFiles = (files: readonly DraftFile[]): readonly string[] =>
  files.filter((file) => !isKept(file)).map(({ name }) => name);

/** Drops the files of a draft that the server has deleted. */
export function forgetLost(user: string, thread: string): void {
  drafts.writeFiles(user, thread, drafts.files(user, thread).filter(isKept));
}

const nameOf = (user: string, thread: string) => JSON.stringify([user, thread]);

const isKept = ({ at }: DraftFile) => Date.now() - at < KEPT_MS;

const doneIn = (list: UploadList): readonly ListedFile[] =>
  list.getSnapshot().flatMap(({ file }: UploadItem) => file ?? []);

const listedOf = ({ file_id, name, media_type, bytes }: ListedFile): ListedFile => ({ file_id, name, media_type, bytes });

const isSame = (a: readonly ListedFile[], b: readonly ListedFile[]) =>
  a.length === b.length && a.every(({ file_id }, index) => file_id === b[index]?.file_id);
