// The icons of the page. They are decoration: the name of a button states its function.

import type { ReactNode } from "react";

/** The page's icon, from the server that sent this script. */
export const ICON = new URL("/icon.svg", import.meta.url).href;

export function Icon({ children }: { children: ReactNode }) {
  return (
    <svg
      className="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="2"
      strokeLinecap="round" strokeLinejoin="round" aria-hidden="true" focusable="false"
    >
      {children}
    </svg>
  );
}

export const SendIcon = () => <Icon><path d="M12 19V5M5.5 11.5 12 5l6.5 6.5" /></Icon>;
export const StopIcon = () => (
  <Icon><rect x="7" y="7" width="10" height="10" rx="1.5" fill="currentColor" /></Icon>
);
export const PlusIcon = () => <Icon><path d="M12 5v14M5 12h14" /></Icon>;
export const MenuIcon = () => <Icon><path d="M4 7h16M4 12h16M4 17h16" /></Icon>;
export const CloseIcon = () => <Icon><path d="M6 6l12 12M18 6 6 18" /></Icon>;
export const CopyIcon = () => (
  <Icon>
    <rect x="9" y="9" width="11" height="11" rx="2" />
    <path d="M5 15V6a2 2 0 0 1 2-2h9" />
  </Icon>
);
export const DownloadIcon = () => <Icon><path d="M12 4v11M7 10.5l5 5 5-5M5 20h14" /></Icon>;
export const CheckIcon = () => <Icon><path d="M5 12.5 10 17.5 19 7" /></Icon>;
export const CrossIcon = () => <Icon><path d="M7 7l10 10M17 7 7 17" /></Icon>;
export const ChevronIcon = () => <Icon><path d="m9 6 6 6-6 6" /></Icon>;
export const DownIcon = () => <Icon><path d="M12 5v14M6 13l6 6 6-6" /></Icon>;
export const SunIcon = () => (
  <Icon>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M5.6 18.4l1.1-1.1M17.3 6.7l1.1-1.1" />
  </Icon>
);
export const MoonIcon = () => <Icon><path d="M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5Z" /></Icon>;
export const AutoIcon = () => (
  <Icon>
    <circle cx="12" cy="12" r="8" />
    <path d="M12 4a8 8 0 0 1 0 16Z" fill="currentColor" />
  </Icon>
);
export const LeaveIcon = () => <Icon><path d="M14 5H6v14h8M11 12h9M16.5 8.5 20 12l-3.5 3.5" /></Icon>;
export const ToolIcon = () => (
  <Icon><path d="M14.7 6.3a4 4 0 0 0-5.2 5.2L4 17v3h3l5.5-5.5a4 4 0 0 0 5.2-5.2L15 12l-3-3Z" /></Icon>
);
export const ThoughtIcon = () => (
  <Icon>
    <path d="M9.5 18h5M10.5 21h3M12 3a6 6 0 0 0-3.7 10.7c.6.5 1 1.2 1.2 2.3h5c.2-1.1.6-1.8 1.2-2.3A6 6 0 0 0 12 3Z" />
  </Icon>
);
export const RetryIcon = () => <Icon><path d="M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6" /></Icon>;
export const BinIcon = () => <Icon><path d="M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12" /></Icon>;
export const PenIcon = () => <Icon><path d="M4 20h4L19 9l-4-4L4 16ZM13 7l4 4" /></Icon>;
export const AlertIcon = () => <Icon><path d="M12 8v5M12 16.5v.01M12 3 2.5 20h19Z" /></Icon>;
export const QuestionIcon = () => (
  <Icon><path d="M9 9.2a3 3 0 1 1 4.3 2.7c-.8.4-1.3 1-1.3 2.1M12 17.5v.01M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0Z" /></Icon>
);
export const ShieldIcon = () => <Icon><path d="M12 3 5 6v5c0 4.6 2.9 8.3 7 10 4.1-1.7 7-5.4 7-10V6ZM9 12l2.2 2.2L15 10.4" /></Icon>;
export const MoreIcon = () => <Icon><path d="M6 12v.01M12 12v.01M18 12v.01" strokeWidth="3" /></Icon>;
export const SearchIcon = () => <Icon><path d="M16 16l4.5 4.5M18 10.5a7.5 7.5 0 1 1-15 0 7.5 7.5 0 0 1 15 0Z" /></Icon>;
export const PanelIcon = () => <Icon><rect x="3.5" y="4.5" width="17" height="15" rx="2" /><path d="M9.5 4.5v15" /></Icon>;
export const BellIcon = () => <Icon><path d="M6 17V11a6 6 0 0 1 12 0v6l1.5 1.5h-15ZM10 21.2h4" /></Icon>;
export const BellOffIcon = () => <Icon><path d="M6 17V11a6 6 0 0 1 12 0v6l1.5 1.5h-15ZM10 21.2h4M4 3l16 18" /></Icon>;
export const KeyboardIcon = () => <Icon><rect x="2.5" y="6" width="19" height="12" rx="2" /><path d="M6.5 10v.01M10.2 10v.01M13.8 10v.01M17.5 10v.01M8 14h8" /></Icon>;
export const DrainIcon = () => <Icon><path d="M12 4v9M8 9.5 12 13.5l4-4M5 18.5h14" /></Icon>;
export const BlockIcon = () => <Icon><circle cx="12" cy="12" r="8" /><path d="M6.5 6.5l11 11" /></Icon>;
