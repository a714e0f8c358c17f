// The icons of the menu of a conversation.

import { Icon } from "../../shared/icons.tsx";

export const DownloadIcon = () => <Icon><path d="M12 4v11M7 10.5l5 5 5-5M5 20h14" /></Icon>;
export const PrintIcon = () => <Icon><path d="M7 9V4h10v5M7 17H4V9h16v8h-3M7 14h10v6H7Z" /></Icon>;
