/** UTF-8 without `TextEncoder` and `TextDecoder`, which the core cannot assume. */

/** The text of some bytes. Throws `URIError` if they are not UTF-8. */
export function fromUtf8(bytes: Iterable<number>): string {
  let escaped = "";
  for (const byte of bytes) escaped += `%${byte.toString(16).padStart(2, "0")}`;
  return decodeURIComponent(escaped);
}

/** The bytes of a text without lone surrogates, such as JSON. */
export function toUtf8(text: string): readonly number[] {
  const parts = encodeURIComponent(text).matchAll(/%(..)|[^%]/g);
  return Array.from(parts, ([one, hex]) => (hex === undefined ? one.charCodeAt(0) : parseInt(hex, 16)));
}

/** The length of a text in bytes. */
export function utf8Bytes(text: string): number {
  let bytes = text.length;
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index);
    if (unit > 0x7f) bytes += 1;
    // Half of a surrogate pair counts 2 bytes, the pair 4; any other unit above 0x7ff has 3.
    if (unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff)) bytes += 1;
  }
  return bytes;
}
