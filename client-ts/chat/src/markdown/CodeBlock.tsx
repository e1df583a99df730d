import { type ReactNode, useEffect, useState } from "react";
import { CopyButton } from "../components/CopyButton.tsx";
import { t } from "../i18n.ts";

/** Longer code is not coloured, because colouring it would take longer than a frame. */
const LONGEST_COLOURED = 20_000;

interface CodeBlockProps {
  code: string;
  language: string;
  /** `true`: the code is still streaming. It is coloured when it is complete. */
  open: boolean;
}

export function CodeBlock({ code, language, open }: CodeBlockProps): ReactNode {
  const coloured = useColours(code, language, open);
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
          <code>{coloured ?? code}</code>
        </pre>
      </section>
    </figure>
  );
}

function useColours(code: string, language: string, open: boolean): ReactNode {
  const [coloured, setColoured] = useState<{ code: string; elements: ReactNode }>();
  const wanted = !open && language !== "" && code.length <= LONGEST_COLOURED;
  useEffect(() => {
    if (!wanted) return;
    let isGone = false;
    import("./highlight.tsx").then(
      ({ highlighted }) => !isGone && setColoured({ code, elements: highlighted(code, language.toLowerCase()) }),
      // Without the highlighter the code is shown without colours.
      () => undefined,
    );
    return () => {
      isGone = true;
    };
  }, [wanted, code, language]);
  return coloured?.code === code ? coloured.elements : undefined;
}
