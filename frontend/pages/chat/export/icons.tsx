// The icon of the menu of a conversation that no other part has.

import { Icon } from "../../shared/icons.tsx";

export const PrintIcon = () => <Icon><path d="M7 9V4h10v5M7 17H4V9h16v8h-3M7 14h10v6H7Z" /></Icon>;
