import type { ReactNode } from "react";
import { CopyButton } from "../components/CopyButton.tsx";
import { t } from "../i18n.ts";

export function CodeBlock({ code, language }: { code: string; language: string }): ReactNode {
  const label = language === "" ? t("code") : `${t("code")}, ${language}`;
  return (
    <figure className="code">
      <figcaption>
        <span>{language === "" ? "code" : language}</span>
        <CopyButton text={code} label={t("copyCode")} />
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, so the keyboard must reach it */}
      <section aria-label={label} className="code-scroll" tabIndex={0}>
        <pre>
          <code>{code}</code>
        </pre>
      </section>
    </figure>
  );
}
