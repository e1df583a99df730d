import type { MarkedToken, Token, Tokens } from "marked";
import { memo, type ReactNode, useState } from "react";
import remend from "remend";
import { t } from "../i18n.ts";
import { BlockSplitter } from "./blocks.ts";
import { CodeBlock } from "./CodeBlock.tsx";
import { Formula } from "./Formula.tsx";
import { type FormulaToken, markdown } from "./math.ts";
import { LONGEST_BLOCK, MOST_CELLS, tooDeep } from "./nesting.ts";
import { decodeEntities, safeHref } from "./text.ts";

/**
 * Renders Markdown as React elements, from the parser's tokens. No HTML is parsed, so nothing needs sanitising: HTML in the text
 * is shown as text, only links to the web and to mail addresses are links, and an image becomes a link to it.
 */
export function Markdown({ text, unfinished }: { text: string; unfinished: boolean }): ReactNode {
  const [splitter] = useState(() => new BlockSplitter());
  const blocks = splitter.split(text);
  return blocks.map((block, index) => (
    // The index of a block never changes.
    // biome-ignore lint/suspicious/noArrayIndexKey: see above
    <Block key={index} source={block} open={unfinished && index === blocks.length - 1} />
  ));
}

/**
 * Renders one block. The last block of an unfinished text is open: its unfinished emphasis, code and links are closed before
 * parsing.
 */
const Block = memo(function Block({ source, open }: { source: string; open: boolean }): ReactNode {
  if (source.length > LONGEST_BLOCK || tooDeep(source)) return <p className="plain">{source}</p>;
  const closed = open ? remend(source, { images: false, linkMode: "text-only" }) : source;
  return render(markdown.lexer(closed), open);
});

function render(tokens: readonly Token[] | undefined, open = false): ReactNode[] {
  return (tokens ?? []).map((token, index) => (
    // biome-ignore lint/suspicious/noArrayIndexKey: tokens have no other identity
    <One key={index} token={token as MarkedToken | FormulaToken} open={open} />
  ));
}

/** Headings begin one level below the page's own, which name the speakers. */
const HEADINGS = ["h3", "h4", "h5", "h6", "h6", "h6"] as const;

function One({ token, open }: { token: MarkedToken | FormulaToken; open: boolean }): ReactNode {
  switch (token.type) {
    case "paragraph":
      return <p>{render(token.tokens)}</p>;
    case "heading": {
      const Heading = HEADINGS[token.depth - 1] ?? "h6";
      return <Heading>{render(token.tokens)}</Heading>;
    }
    case "code":
      return <CodeBlock code={token.text} language={token.lang?.split(/\s/)[0] ?? ""} open={open} />;
    case "formula":
      return <Formula source={token.text} display={token.display} />;
    case "list":
      return <List list={token} />;
    case "blockquote":
      return <blockquote>{render(token.tokens)}</blockquote>;
    case "table":
      return <Table table={token} />;
    case "hr":
      return <hr />;
    case "strong":
      return <strong>{render(token.tokens)}</strong>;
    case "em":
      return <em>{render(token.tokens)}</em>;
    case "del":
      return <del>{render(token.tokens)}</del>;
    case "codespan":
      return <code>{token.text}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link href={token.href}>{render(token.tokens)}</Link>;
    case "image":
      return <Link href={token.href}>{token.text === "" ? token.href : token.text}</Link>;
    case "text":
      return "tokens" in token && token.tokens ? render(token.tokens) : decodeEntities(token.text);
    case "checkbox":
      return token.checked ? "☑ " : "☐ ";
    case "escape":
      return token.text;
    case "html":
      return /^<br\s*\/?>\s*$/i.test(token.raw) ? <br /> : token.raw;
    default:
      return null;
  }
}

function Link({ href, children }: { href: string; children: ReactNode }): ReactNode {
  const safe = safeHref(href);
  if (safe === undefined) return children;
  return (
    <a href={safe} target="_blank" rel="noopener noreferrer">
      {children}
    </a>
  );
}

function List({ list }: { list: Tokens.List }): ReactNode {
  const items = list.items.map((item, index) => (
    // biome-ignore lint/suspicious/noArrayIndexKey: items have no other identity
    <li key={index} className={item.task ? "task" : undefined}>
      {render(item.tokens)}
    </li>
  ));
  return list.ordered ? <ol start={list.start === "" ? 1 : list.start}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ table }: { table: Tokens.Table }): ReactNode {
  if (table.header.length * (table.rows.length + 1) > MOST_CELLS) return <p className="plain">{table.raw}</p>;
  const cell = (given: Tokens.TableCell, index: number, Tag: "th" | "td"): ReactNode => (
    <Tag key={index} style={{ textAlign: table.align[index] ?? "left" }}>
      {render(given.tokens)}
    </Tag>
  );
  return (
    // A wide table scrolls on its own, so the keyboard must reach it.
    // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
    <section className="table" aria-label={t("table")} tabIndex={0}>
      <table>
        <thead>
          <tr>{table.header.map((given, index) => cell(given, index, "th"))}</tr>
        </thead>
        <tbody>
          {table.rows.map((row, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: rows have no other identity
            <tr key={index}>{row.map((given, column) => cell(given, column, "td"))}</tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
