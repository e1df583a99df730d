/** The page's texts, in English and Portuguese. */

import { EN, type Key } from "./i18n-en.ts";
import { PT } from "./i18n-pt.ts";

export type { Key };

let words: Record<Key, string> = EN;

/** Sets the language of later calls of `t`. `system`: the browser's language. */
export function setLanguage(language: "system" | "en" | "pt"): void {
  const chosen = language === "system" ? navigator.language.slice(0, 2) : language;
  words = chosen === "pt" ? PT : EN;
}

export function currentLanguage(): "en" | "pt" {
  return words === PT ? "pt" : "en";
}

/** Returns the text of a key, with each `{name}` replaced by the value of that name. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return words[key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
