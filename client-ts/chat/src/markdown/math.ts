import { Marked, type TokenizerAndRendererExtension } from "marked";

export interface FormulaToken {
  type: "formula";
  raw: string;
  text: string;
  display: boolean;
}

const BLOCK = /^(?:\$\$([^$]{1,4000}?)\$\$|\\\[([\s\S]{1,4000}?)\\\])[ \t]*(?:\n+|$)/;
/** Dollar signs enclose a formula only if no space is inside them at either end and no digit follows: `$5 and $6` are prices. */
const INLINE = /^(?:\$(?![\s$])([^$\n]{1,500}?)(?<!\s)\$(?![\d$])|\\\(([^\n]{1,500}?)\\\))/;

const block: TokenizerAndRendererExtension = {
  name: "formula",
  level: "block",
  start: (source) => indexOf(source, /(?:^|\n)(?:\$\$|\\\[)/),
  tokenizer(source) {
    const found = BLOCK.exec(source);
    return found ? token(found, true) : undefined;
  },
};

const inline: TokenizerAndRendererExtension = {
  name: "formula",
  level: "inline",
  start: (source) => indexOf(source, /\$|\\\(/),
  tokenizer(source) {
    const found = INLINE.exec(source);
    return found ? token(found, false) : undefined;
  },
};

function indexOf(source: string, pattern: RegExp): number | undefined {
  const index = source.search(pattern);
  return index < 0 ? undefined : index;
}

function token(found: RegExpExecArray, display: boolean): FormulaToken {
  return { type: "formula", raw: found[0], text: (found[1] ?? found[2] ?? "").trim(), display };
}

/** The page's Markdown: GitHub's, with formulas. */
export const markdown = new Marked({ gfm: true, breaks: true, extensions: [block, inline] });
