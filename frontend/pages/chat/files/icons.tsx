// The icons of files.

import { Icon } from "../../shared/icons.tsx";

export const ClipIcon = () => <Icon><path d="M20 11.5 11.8 19.7a5.2 5.2 0 0 1-7.4-7.4L12.9 3.8a3.5 3.5 0 0 1 5 5L9.5 17.2a1.7 1.7 0 0 1-2.5-2.5L14.7 7" /></Icon>;
export const FileIcon = () => <Icon><path d="M14 3H7a1 1 0 0 0-1 1v16a1 1 0 0 0 1 1h10a1 1 0 0 0 1-1V7ZM14 3v4h4" /></Icon>;
export const SoundIcon = () => <Icon><path d="M9 18V6l10-2v12M9 18a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0ZM19 16a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0Z" /></Icon>;
export const PlayIcon = () => <Icon><path d="M8 5v14l11-7Z" /></Icon>;
