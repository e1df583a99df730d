/** Turns messages into the text that goes over the wire. */

import { InputError } from "./errors.ts";

export type Message = Record<string, unknown>;

/**
 * Merges the parts into one message and serialises it as JSON; a field of a later part replaces that of an earlier one.
 * An unpaired surrogate becomes U+FFFD, as with `String.prototype.toWellFormed`. Throws `InputError` if a part cannot
 * be read, or holds a value that JSON cannot hold, such as a `BigInt` or a circular object.
 */
export function encode(...parts: (object | null | undefined)[]): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(Object.assign({}, ...parts));
  } catch (cause) {
    throw new InputError("The request cannot be written as JSON.", { cause });
  }
  if (text === undefined || text[0] !== "{") throw new InputError("The request is not a JSON object.");
  // JSON.stringify writes `\ud83d` only for an unpaired surrogate. The pattern skips an escaped backslash before the
  // text "ud83d".
  return text.replace(/\\(?:\\|ud[89a-f]..)/g, (match) => (match === "\\\\" ? match : "\ufffd"));
}

/** Adds a field to an encoded message that has at least one field. */
export function withField(text: string, name: string, value: unknown): string {
  return `${text.slice(0, -1)},${JSON.stringify(name)}:${JSON.stringify(value)}}`;
}

/** Whether the text has more than `limit` bytes in UTF-8. */
export function isLongerThan(text: string, limit: number): boolean {
  return new TextEncoder().encode(text).length > limit;
}
