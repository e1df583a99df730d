import { useEffect } from "react";
import type { Key } from "./i18n.ts";

export type Action = "new" | "search" | "regenerate" | "copy" | "help";

interface Shortcut {
  action: Action | "stop";
  words: Key;
  keys: readonly string[];
  /** The `code` of the keyboard event with Alt and Shift held; browsers and screen readers use few of these combinations. */
  code?: string;
}

export const SHORTCUTS: readonly Shortcut[] = [
  { action: "new", words: "keyNew", keys: ["Alt", "Shift", "N"], code: "KeyN" },
  { action: "search", words: "keySearch", keys: ["Alt", "Shift", "F"], code: "KeyF" },
  { action: "stop", words: "keyStop", keys: ["Esc"] },
  { action: "regenerate", words: "keyRegenerate", keys: ["Alt", "Shift", "R"], code: "KeyR" },
  { action: "copy", words: "keyCopy", keys: ["Alt", "Shift", "C"], code: "KeyC" },
  { action: "help", words: "keyHelp", keys: ["Alt", "Shift", "H"], code: "KeyH" },
];

export function useShortcuts(run: (action: Action) => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (!event.altKey || !event.shiftKey || event.isComposing) return;
      const found = SHORTCUTS.find(({ code }) => code === event.code);
      if (!found || found.action === "stop") return;
      event.preventDefault();
      run(found.action);
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [run]);
}
