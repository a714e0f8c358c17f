// The open thread is in the page's address, so that a reload and the back button work.

const ID = /^[A-Za-z0-9_-]{1,64}$/;

export function threadInAddress(): string | null {
  const id = location.hash.replace(/^#\/?/, "");
  return ID.test(id) ? id : null;
}

export const addressOf = (id: string) => `#/${id}`;

export function newThreadId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `t-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
