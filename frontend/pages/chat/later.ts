// Requests that the server cannot execute now, and may execute later.

/** The codes of their errors. */
export const LATER: ReadonlySet<string> = new Set(["RATE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE", "SERVER_DRAINING"]);
