// The title of a thread that the server has not named yet.

const TITLE_CHARACTERS = 60; // a line of the list

/** The first words of a message, as the title of its thread. */
export function titleOf(content: string): string {
  const line = content.replace(/\s+/g, " ").trim();
  if (line.length <= TITLE_CHARACTERS) return line;
  const cut = line.slice(0, TITLE_CHARACTERS);
  const space = cut.lastIndexOf(" ");
  return `${(space > TITLE_CHARACTERS / 2 ? cut.slice(0, space) : cut).trimEnd()}…`;
}
