/** The page's words, in English and Portuguese. */

import { EN, type Key } from "./i18n-en.ts";
import { PT } from "./i18n-pt.ts";

export type { Key };

let words: Record<Key, string> = EN;

/** Chooses the language of all words that are read from now on: `system` is the browser's. */
export function setLanguage(language: "system" | "en" | "pt"): void {
  const chosen = language === "system" ? navigator.language.slice(0, 2) : language;
  words = chosen === "pt" ? PT : EN;
}

export function currentLanguage(): "en" | "pt" {
  return words === PT ? "pt" : "en";
}

/** The words of this key, with `{name}` replaced by the value of that name. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return words[key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
