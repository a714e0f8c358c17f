// The technical part of an error, closed until the user wants it.

export function Details({ text }: { text: string | null }) {
  if (text === null) return null;
  return (
    <details className="details">
      <summary>Details</summary>
      <p>{text}</p>
    </details>
  );
}
