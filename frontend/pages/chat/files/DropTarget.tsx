// The notice that the page shows while files are dragged over it.

import { ClipIcon } from "./icons.tsx";

export function DropTarget() {
  return (
    <div className="drop-target" aria-hidden="true">
      <p>
        <ClipIcon />
        Drop files to attach them
      </p>
    </div>
  );
}
