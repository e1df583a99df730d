import { type ReactNode, useEffect, useRef } from "react";

/** Longer formulas are shown as source. */
const LONGEST = 2_000;

/** Shows a LaTeX formula as MathML. Shows the source until the renderer is loaded, and if rendering fails. */
export function Formula({ source, display }: { source: string; display: boolean }): ReactNode {
  const ref = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const element = ref.current;
    if (!element || source.length > LONGEST) return;
    let isGone = false;
    import("temml").then(
      ({ default: temml }) => {
        if (isGone) return;
        // The source is not trusted: links and styles are disabled, and the expansion of macros is bounded.
        const options = { displayMode: display, throwOnError: true, trust: false, maxExpand: 200 };
        try {
          const draft = document.createElement("span");
          temml.render(source, draft, options);
          element.replaceChildren(...draft.childNodes);
        } catch {
          element.textContent = source;
        }
      },
      () => undefined,
    );
    return () => {
      isGone = true;
    };
  }, [source, display]);
  const Tag = display ? "div" : "span";
  return (
    <Tag className={display ? "formula display" : "formula"}>
      <span ref={ref} key={source}>
        {source}
      </span>
    </Tag>
  );
}
