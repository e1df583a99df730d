/** Turns messages into the text that goes over the wire. */

import { InputError } from "./errors.ts";

export type Message = Record<string, unknown>;

/**
 * Serialises a message of these parts; a later part goes over an earlier one. An unpaired surrogate becomes U+FFFD, as
 * `String.prototype.toWellFormed` does. Throws `InputError` for what cannot be read, and for values that JSON cannot hold,
 * such as a `BigInt` or a circular object.
 */
export function encode(...parts: (object | null | undefined)[]): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(Object.assign({}, ...parts));
  } catch (cause) {
    throw new InputError("The request cannot be written as JSON.", { cause });
  }
  if (text === undefined || text[0] !== "{") throw new InputError("The request is not a JSON object.");
  // JSON.stringify escapes unpaired surrogates and only those; an escaped backslash before "ud83d" is not one.
  return text.replace(/\\(?:\\|ud[89a-f]..)/g, (match) => (match === "\\\\" ? match : "\ufffd"));
}

/** Adds a field to an encoded message, which has fields already. */
export function withField(text: string, name: string, value: unknown): string {
  return `${text.slice(0, -1)},${JSON.stringify(name)}:${JSON.stringify(value)}}`;
}

/** Whether the text has more than `limit` bytes in UTF-8. */
export function isLongerThan(text: string, limit: number): boolean {
  return new TextEncoder().encode(text).length > limit;
}
