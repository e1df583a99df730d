/** Colours code. Loaded with the first code block that has a language. */

import { common, createLowlight } from "lowlight";
import type { ReactNode } from "react";

const lowlight = createLowlight(common);

interface Node {
  type: string;
  value?: string;
  properties?: { className?: unknown };
  children?: readonly Node[];
}

/** Returns the coloured code as elements, or undefined for an unknown language. Neither writes nor parses HTML. */
export function highlighted(code: string, language: string): ReactNode {
  if (!lowlight.registered(language)) return undefined;
  return elements(lowlight.highlight(language, code).children as readonly Node[]);
}

function elements(nodes: readonly Node[]): ReactNode {
  return nodes.map((node, index) => {
    if (node.type === "text") return node.value;
    const { className } = node.properties ?? {};
    return (
      // biome-ignore lint/suspicious/noArrayIndexKey: tokens have no other identity
      <span key={index} className={Array.isArray(className) ? className.join(" ") : undefined}>
        {elements(node.children ?? [])}
      </span>
    );
  });
}
