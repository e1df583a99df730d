import type { ResponseObject } from "./types.ts";

/** Joins the text of all messages of a response. */
export function outputText(response: Pick<ResponseObject, "output">): string {
  return response.output
    .flatMap((item) => (item.type === "message" ? item.content : []))
    .map((part) => (part.type === "output_text" ? part.text : ""))
    .join("");
}
