// The page's shortcuts: which keys execute which command, and the handlers of the commands. The keys are
// chosen so that browsers and screen readers do not use them: Alt and a letter that no browser's menu
// has (with Command on a Mac, where Alt alone types characters), Ctrl+K for a search as on many pages, Ctrl+/.

import { isComposing } from "../shared/keys.ts";

export type Command = "new" | "search" | "sidebar" | "edit-last" | "copy-last" | "help";

interface Shortcut {
  readonly command: Command | null;
  readonly text: string;
  /** `Mod` is Ctrl, on a Mac Command; `Alt` is Alt, on a Mac Alt and Command. */
  readonly keys: readonly string[];
  /** Where the keys work, if not everywhere. */
  readonly where?: string;
}

/** All shortcuts, as the help lists them; those without a command belong to a control. */
export const SHORTCUTS: readonly Shortcut[] = [
  { command: "new", text: "New conversation", keys: ["Alt", "N"] },
  { command: "search", text: "Search conversations", keys: ["Mod", "K"] },
  { command: "sidebar", text: "Show or hide the conversations", keys: ["Alt", "O"] },
  { command: null, text: "Send the message", keys: ["Enter"] },
  { command: null, text: "New line", keys: ["Shift", "Enter"] },
  { command: null, text: "Stop the answer and send", keys: ["Mod", "Enter"] },
  { command: "edit-last", text: "Edit your last message", keys: ["↑"], where: "in the empty message box" },
  { command: "copy-last", text: "Copy the last answer", keys: ["Alt", "A"] },
  { command: null, text: "Stop the answer", keys: ["Esc"] },
  { command: null, text: "Rename a conversation", keys: ["F2"], where: "in the list" },
  { command: null, text: "Delete a conversation", keys: ["Del"], where: "in the list" },
  { command: "help", text: "This help", keys: ["Mod", "/"] },
];

const MAC: Readonly<Record<string, string>> = { Mod: "⌘", Alt: "⌥ ⌘", Shift: "⇧", Enter: "↩", Del: "⌦" };
const OTHER: Readonly<Record<string, string>> = { Mod: "Ctrl" };

const isMac = () => /Macintosh|iPhone|iPad/.test(navigator.userAgent);

/** The keys as they are written on the user's keyboard. */
export function namesOf({ keys }: Pick<Shortcut, "keys">, mac = isMac()): readonly string[] {
  return keys.flatMap((key) => ((mac ? MAC : OTHER)[key] ?? key).split(" "));
}

type Keys = Pick<
  KeyboardEvent,
  | "key"
  | "code"
  | "keyCode"
  | "ctrlKey"
  | "altKey"
  | "metaKey"
  | "shiftKey"
  | "isComposing"
  | "repeat"
  | "getModifierState"
  | "target"
>;

/** The command of a key that is pressed. */
export function commandOf(event: Keys, mac = isMac()): Command | null {
  // AltGr types characters. On Windows it looks like Ctrl and Alt.
  if (isComposing(event) || event.repeat || event.getModifierState("AltGraph")) return null;
  const { ctrlKey, altKey, metaKey, shiftKey, target } = event;
  if (!ctrlKey && !altKey && !metaKey) return plainCommandOf(event.key, shiftKey, target);
  const [isMod, isOther] = mac ? [metaKey, ctrlKey] : [ctrlKey, metaKey];
  if (isOther) return null;
  const first = isMod && !altKey ? "Mod" : altKey && isMod === mac ? "Alt" : null;
  // Some keyboards have the slash on a key with Shift.
  const found = SHORTCUTS.find(({ keys }) => keys[0] === first && keys[1] === letterOf(event, mac) && (!shiftKey || keys[1] === "/"));
  return found?.command ?? null;
}

function plainCommandOf(key: string, shiftKey: boolean, target: EventTarget | null): Command | null {
  const isField = target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");
  if (key === "?" && !isField) return "help";
  const isEmptyBox = target instanceof HTMLTextAreaElement && target.matches(".composer *") && target.value === "";
  return key === "ArrowUp" && !shiftKey && isEmptyBox ? "edit-last" : null;
}

/** The letter of a key; of its place where the key has no Latin letter, or Alt changes its character. */
function letterOf({ key, code, altKey }: Pick<Keys, "key" | "code" | "altKey">, mac: boolean): string {
  const place = /^Key([A-Z])$/.exec(code)?.[1];
  const isLatin = /^[a-z]$/i.test(key);
  if (place !== undefined && (!isLatin || (altKey && mac))) return place;
  return key.toUpperCase();
}

const handlers = new Map<Command, (() => void)[]>();

/** Executes a command when its keys are pressed, until the returned function is called. The latest handler wins. */
export function onCommand(command: Command, run: () => void): () => void {
  const own = () => run();
  handlers.set(command, [...(handlers.get(command) ?? []), own]);
  return () => {
    handlers.set(command, (handlers.get(command) ?? []).filter((other) => other !== own));
  };
}

/** Executes a command. False if nothing on the page handles it. */
export function execute(command: Command): boolean {
  const run = handlers.get(command)?.at(-1);
  run?.();
  return run !== undefined;
}
