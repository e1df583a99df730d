/** Parses an output as the JSON that its request asked for. Loaded when used. */

import { OutputFormatError } from "./errors.ts";
import { outputText } from "./output-text.ts";
import { type Check, checked } from "./schema.ts";
import type { ResponseObject } from "./types.ts";

const EXCERPT = 80;

export async function parsed<T>(response: ResponseObject, check?: Check<T>): Promise<T> {
  const text = outputText(response);
  if (response.status !== "completed") {
    const why = response.incomplete_details?.reason ?? response.status;
    throw new OutputFormatError(
      "incomplete",
      `The output is incomplete (${why}), so it is not complete JSON.`,
      response,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const said = text === "" ? "The response has no text." : `The output is not JSON: ${excerpt(text)}`;
    throw new OutputFormatError("invalid", said, response, { cause });
  }
  if (!check) return value as T;
  try {
    return await checked(check, value);
  } catch (cause) {
    const said = `The check refused the output: ${excerpt(text)}`;
    throw new OutputFormatError("invalid", said, response, { cause });
  }
}

function excerpt(text: string): string {
  return text.length > EXCERPT ? `${text.slice(0, EXCERPT)}…` : text;
}
