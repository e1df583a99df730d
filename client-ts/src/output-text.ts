import type { ResponseObject } from "./types.ts";

/** All text of a response's messages. */
export function outputText(response: Pick<ResponseObject, "output">): string {
  return response.output
    .flatMap((item) => (item.type === "message" ? item.content : []))
    .map((part) => (part.type === "output_text" ? part.text : ""))
    .join("");
}
