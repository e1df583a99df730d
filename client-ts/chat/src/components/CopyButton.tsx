import { type ReactNode, useEffect, useState } from "react";
import { t } from "../i18n.ts";
import { Check, Copy } from "./icons.tsx";

export function CopyButton({ text, label }: { text: string; label: string }): ReactNode {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async (): Promise<void> => setCopied(await writeClipboard(text));
  return (
    <button type="button" className="quiet" onClick={() => void copy()} aria-label={copied ? t("copied") : label}>
      {copied ? <Check /> : <Copy />}
      <span aria-hidden="true">{copied ? t("copied") : t("copy")}</span>
    </button>
  );
}

/** Copies a text. The clipboard API exists in secure contexts only, and a page on a local network is not one. */
export async function writeClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr-only";
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return done;
  }
}
