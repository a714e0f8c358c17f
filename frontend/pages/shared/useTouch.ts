// Whether the device has only a touch screen: its keyboard has no Shift+Enter and no Escape.

import { useMedia } from "./useMedia.ts";

export const useTouch = () => useMedia("(hover: none) and (pointer: coarse)");
