// The claims of a token. They only name local things: the server verifies the token.

export interface Claims {
  readonly sub: string;
  /** Unix seconds. */
  readonly exp?: number;
}

/** Null for anything but a JWT that names a user. */
export function claimsOf(token: string): Claims | null {
  try {
    const coded = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(coded), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as Partial<Claims> | null;
    return typeof claims?.sub === "string" && claims.sub ? (claims as Claims) : null;
  } catch {
    return null;
  }
}

/** The user that a token names. */
export const userOf = (token: string): string | null => claimsOf(token)?.sub ?? null;
