// What was deleted a moment ago, with a button that undoes it.

import type { ThreadDeletion } from "./useDeletions.ts";

interface Props {
  readonly deletion: Pick<ThreadDeletion, "undoable" | "hold" | "release">;
  readonly onUndo: (id: string) => void;
}

export function Toasts({ deletion: { undoable, hold, release }, onUndo }: Props) {
  return (
    <div className="toasts" aria-live="polite">
      {undoable.map(({ id, title }) => (
        <div
          className="toast"
          key={id}
          onPointerEnter={() => hold(id)}
          onPointerLeave={() => release(id)}
          onFocus={() => hold(id)}
          onBlur={() => release(id)}
        >
          <span className="toast-text">
            Deleted: <bdi>{title}</bdi>
          </span>
          <button type="button" className="quiet" aria-label={`Undo deleting: ${title}`} onClick={() => onUndo(id)}>
            Undo
          </button>
        </div>
      ))}
    </div>
  );
}
