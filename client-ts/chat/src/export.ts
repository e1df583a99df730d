import type { ExportedChat } from "./chat-list.ts";
import { t } from "./i18n.ts";

export function asMarkdown({ title, items }: ExportedChat): string {
  const parts = title === "" ? [] : [`# ${title}`];
  for (const item of items) {
    if ("role" in item && (item.role === "user" || item.role === "assistant")) {
      const { content } = item;
      const text =
        typeof content === "string"
          ? content
          : (content ?? []).map((part) => ("text" in part ? part.text : "")).join("");
      parts.push(`## ${item.role === "user" ? t("you") : t("answer")}`, text);
    }
  }
  return `${parts.join("\n\n")}\n`;
}

export function download(name: string, text: string, type: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name.replace(/[/\\:*?"<>|]/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(url));
}
