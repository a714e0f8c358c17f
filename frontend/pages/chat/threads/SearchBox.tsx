// The box that searches the conversations. Arrow down goes to the list, Enter opens its first one.

import type { KeyboardEvent, RefObject } from "react";
import { CloseIcon, SearchIcon } from "../../shared/icons.tsx";
import { isComposing } from "../../shared/keys.ts";
import { linksIn } from "./ThreadList.tsx";
import { QUERY_CHARACTERS, type Search } from "./useSearch.ts";

interface Props {
  readonly search: Search;
  readonly box: RefObject<HTMLInputElement | null>;
  /** The shortcut to this box, for its hint. */
  readonly keys: string;
}

export function SearchBox({ search: { text, setText, isSearching }, box, keys }: Props) {
  const clear = () => {
    setText("");
    box.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (isComposing(event.nativeEvent)) return;
    const [first] = linksIn(box.current?.closest("nav") ?? null);
    if (event.key === "Escape" && text !== "") clear();
    else if (event.key === "ArrowDown") first?.focus();
    else if (event.key === "Enter" && text.trim() && !isSearching) first?.click();
    else return;
    event.preventDefault();
  };
  return (
    <div className="search" role="search">
      <SearchIcon />
      <input
        ref={box}
        type="text"
        inputMode="search"
        enterKeyHint="search"
        aria-label="Search conversations"
        placeholder="Search"
        title={`Search titles and messages (${keys})`}
        dir="auto"
        autoComplete="off"
        maxLength={QUERY_CHARACTERS}
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
      />
      {text !== "" && (
        <button type="button" className="square" aria-label="Clear the search" title="Clear (Esc)" onClick={clear}>
          <CloseIcon />
        </button>
      )}
    </div>
  );
}
