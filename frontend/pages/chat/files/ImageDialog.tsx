// An image in its full size, above the page.

import { useEffect, useRef } from "react";
import type { ListedFile } from "../../../src/index.ts";
import { CloseIcon, DownloadIcon } from "../../shared/icons.tsx";
import { detailsText, nameText } from "./describe.ts";
import { useDownload } from "./useDownload.ts";

interface Props {
  readonly file: ListedFile;
  readonly url: string;
  readonly onClose: () => void;
}

export function ImageDialog({ file, url, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const name = nameText(file);
  const { download, problem } = useDownload(file.file_id, name);
  useEffect(() => {
    const { current } = dialog;
    current?.showModal();
    return () => current?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      className="image-dialog"
      aria-label={name}
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && dialog.current.close()}
    >
      <header>
        <p className="file-name" dir="auto">{name}</p>
        <p className="note">{detailsText(file)}</p>
        <button type="button" className="square" aria-label={`Download ${name}`} title="Download" onClick={download}>
          <DownloadIcon />
        </button>
        <button type="button" className="square" aria-label="Close" title="Close (Esc)" onClick={() => dialog.current?.close()}>
          <CloseIcon />
        </button>
      </header>
      {problem !== null && <p className="fault" role="alert">{problem}</p>}
      <img src={url} alt={name} draggable={false} />
    </dialog>
  );
}
