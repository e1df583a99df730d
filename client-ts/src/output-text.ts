import type { ResponseObject } from "./types.ts";

/** All text of a response's messages. */
export function outputText(response: ResponseObject): string {
  return response.output
    .flatMap((item) => (item.type === "message" ? item.content : []))
    .map((part) => (part.type === "output_text" ? part.text : ""))
    .join("");
}
