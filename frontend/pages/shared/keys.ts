// Keys that an input method takes.

type Key = Pick<KeyboardEvent, "isComposing" | "keyCode">;

const PROCESSED = 229; // the `keyCode` of a key that an input method has taken

/**
 * Whether an input method takes a key: Enter accepts the composed characters, Escape discards them.
 * Safari ends the composition before it reports that key, with `keyCode` alone.
 */
// eslint-disable-next-line @typescript-eslint/no-deprecated -- Safari has no other sign
export const isComposing = (event: Key) => event.isComposing || event.keyCode === PROCESSED;
