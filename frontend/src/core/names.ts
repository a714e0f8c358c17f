/** The names of lock, channel and storage: one for each user and server, so that none is shared. */

import { isObject } from "../protocol/check.js";
import { fromUtf8 } from "../protocol/utf8.js";

/** The subject of a JWT, or null. It only names local things: the server verifies the token. */
export function subjectOf(token: string): string | null {
  const [, body] = token.split(".");
  if (body === undefined) return null;
  try {
    const claims: unknown = JSON.parse(fromBase64Url(body));
    const sub = isObject(claims) ? claims["sub"] : null;
    return typeof sub === "string" && sub !== "" ? sub : null;
  } catch {
    return null;
  }
}

export const sessionName = (address: string, sub: string): string =>
  `netra:${address}:${encodeURIComponent(sub)}`;

/** The prefix of what is stored for a server, whichever user is logged in. */
export const serverName = (address: string): string => `netra:${address}`;

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** Text as unpadded base64url, for a token among the subprotocols. */
export function toBase64Url(text: string): string {
  let bits = "";
  for (const byte of text) bits += byte.charCodeAt(0).toString(2).padStart(8, "0");
  const sixes = bits.match(/.{1,6}/g) ?? [];
  return sixes.map((six) => ALPHABET[parseInt(six.padEnd(6, "0"), 2)]).join("");
}

function fromBase64Url(text: string): string {
  const standard = text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const bytes: number[] = [];
  let bits = 0;
  let held = 0;
  for (const character of standard) {
    const value = ALPHABET.indexOf(character);
    if (value < 0) throw new RangeError("not base64url");
    held = (held << 6) | value;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes.push((held >> bits) & 0xff);
      held &= (1 << bits) - 1;
    }
  }
  return fromUtf8(bytes);
}
