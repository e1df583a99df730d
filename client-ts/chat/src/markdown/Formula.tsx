import { type ReactNode, useEffect, useRef } from "react";

/** Longer formulas are shown as they were written. */
const LONGEST = 2_000;

/** A formula in LaTeX, as MathML. Until the renderer is loaded, and where it fails, its source. */
export function Formula({ source, display }: { source: string; display: boolean }): ReactNode {
  const ref = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const element = ref.current;
    if (!element || source.length > LONGEST) return;
    let isGone = false;
    import("temml").then(
      ({ default: temml }) => {
        if (isGone) return;
        // Not trusted: no links and no styles of the author. Expansion of macros is bounded.
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
