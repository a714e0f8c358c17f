// The icons of the actions at a message.

import { Icon } from "../../shared/icons.tsx";

const THUMB = "M7 11v9H4v-9ZM7 11l4-8a2.5 2.5 0 0 1 2.4 3L13 9h5a2 2 0 0 1 2 2.4l-1.4 7A2 2 0 0 1 16.6 20H7";

export const ThumbUpIcon = () => <Icon><path d={THUMB} /></Icon>;
export const ThumbDownIcon = () => <Icon><path d={THUMB} transform="rotate(180 12 12)" /></Icon>;
export const CommentIcon = () => <Icon><path d="M4 5h16v11H11l-4 4v-4H4Z" /></Icon>;
