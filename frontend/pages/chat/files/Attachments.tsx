// The files of a message: images as thumbnails, all others as cards. The type that the server has detected
// decides, not the name; only images that cannot have scripts are shown.

import { useId, useRef, useState } from "react";
import type { ListedFile } from "../../../src/index.ts";
import { isImage } from "../../../src/index.ts";
import { useFileUrl } from "../../../src/react/index.ts";
import { DownloadIcon } from "../../shared/icons.tsx";
import { detailsText, nameText, typeText } from "./describe.ts";
import { FileIcon, PlayIcon, SoundIcon } from "./icons.tsx";
import { ImageDialog } from "./ImageDialog.tsx";
import { useDownload } from "./useDownload.ts";
import { useNearby } from "./useNearby.ts";

const SHOWN = 16; // files at first: as many as a message has, but an agent may send far more

export function Attachments({ files }: { files: readonly ListedFile[] }) {
  const [isWhole, setWhole] = useState(false);
  if (files.length === 0) return null;
  const shown = isWhole ? files : files.slice(0, SHOWN);
  return (
    <>
      <ul className="attachments" aria-label="Files">
        {shown.map((file) => (
          <li key={file.file_id}>
            <Attachment file={file} />
          </li>
        ))}
      </ul>
      {shown.length < files.length && (
        <button type="button" className="quiet more-files" onClick={() => setWhole(true)}>
          Show {files.length - shown.length} more {files.length - shown.length === 1 ? "file" : "files"}
        </button>
      )}
    </>
  );
}

function Attachment({ file }: { file: ListedFile }) {
  // An image that cannot be shown is offered for download.
  const [isBroken, setBroken] = useState(false);
  if (isImage(file.media_type) && !isBroken) return <Thumbnail file={file} onBroken={() => setBroken(true)} />;
  return <FileCard file={file} />;
}

function Thumbnail({ file, onBroken }: { file: ListedFile; onBroken: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  const isNearby = useNearby(button);
  const { url, error } = useFileUrl(isNearby ? file : null);
  const [isLarge, setLarge] = useState(false);
  const name = nameText(file);
  if (error !== null) return <FileCard file={file} />;
  return (
    <>
      <button
        ref={button}
        type="button"
        className="thumbnail"
        aria-label={`Show ${name} larger`}
        title={`${name} – ${detailsText(file)}`}
        aria-busy={url === null}
        onClick={() => setLarge(true)}
      >
        {url === null ? <span className="spinner" aria-hidden="true" /> : <img src={url} alt="" draggable={false} onError={onBroken} />}
      </button>
      {isLarge && url !== null && <ImageDialog file={file} url={url} onClose={() => setLarge(false)} />}
    </>
  );
}

function FileCard({ file }: { file: ListedFile }) {
  const name = nameText(file);
  const { download, problem } = useDownload(file.file_id, name);
  const fault = useId();
  const isSound = file.media_type.startsWith("audio/");
  return (
    <div className="file-card">
      {isSound ? <SoundIcon /> : <FileIcon />}
      <div className="file-text">
        <p className="file-name" dir="auto" title={name}>{name}</p>
        <p className="note">{detailsText(file)}</p>
      </div>
      <button
        type="button"
        className="square"
        aria-label={`Download ${name}`}
        title="Download"
        aria-describedby={problem === null ? undefined : fault}
        onClick={download}
      >
        <DownloadIcon />
      </button>
      {isSound && <Player file={file} />}
      {problem !== null && <p className="fault" id={fault} role="alert">{problem}</p>}
    </div>
  );
}

/** Loads a sound when it is asked for. */
function Player({ file }: { file: ListedFile }) {
  const [isWanted, setWanted] = useState(false);
  const { url, error } = useFileUrl(isWanted ? file : null);
  if (url !== null) return <audio src={url} controls autoPlay aria-label={nameText(file)} />;
  if (error !== null) return <p className="fault" role="alert">This sound could not be loaded.</p>;
  return (
    <button type="button" className="quiet" aria-busy={isWanted} onClick={() => setWanted(true)}>
      <PlayIcon />
      {isWanted ? "Loading…" : `Play ${typeText(file)}`}
    </button>
  );
}
