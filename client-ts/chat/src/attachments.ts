import type { Attachment } from "./turn.ts";

const LARGEST_FILE = 512 * 1024;
/** A longer pasted text becomes an attachment. */
const LONG_PASTE = 2_000;

/** Reads a text file. Resolves to undefined if the file is not text or too large. */
export async function readText(file: File): Promise<Attachment | undefined> {
  if (file.size > LARGEST_FILE) return undefined;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\u0000") ? undefined : { name: file.name, text };
  } catch {
    return undefined;
  }
}

export function isLongPaste(text: string): boolean {
  return text.length > LONG_PASTE;
}
