import { markdown } from "./math.ts";
import { LONGEST_BLOCK, tooDeep } from "./nesting.ts";

/**
 * Splits a growing text into its top-level blocks. A delta costs time in proportion to the last two blocks: later text cannot
 * change the blocks before them. One block is not enough, because a list may absorb the paragraph after it.
 */
export class BlockSplitter {
  #settled: readonly string[] = [];
  #settledLength = 0;
  #text = "";

  split(text: string): readonly string[] {
    if (!text.startsWith(this.#text.slice(0, this.#settledLength))) {
      this.#settled = [];
      this.#settledLength = 0;
    }
    this.#text = text;
    const rest = text.slice(this.#settledLength);
    const tail = rest.length > LONGEST_BLOCK ? pieces(rest).flatMap(blocksOf) : blocksOf(rest);
    const settling = tail.slice(0, -2);
    if (settling.length > 0) {
      this.#settled = [...this.#settled, ...settling];
      for (const block of settling) this.#settledLength += block.length;
    }
    return settling.length > 0 ? [...this.#settled, ...tail.slice(-2)] : [...this.#settled, ...tail];
  }
}

/** Cuts a text that is too long to be parsed at once at blank lines. A too long piece without blank lines is not parsed. */
function pieces(text: string): string[] {
  const pieces: string[] = [];
  for (let at = 0; at < text.length; ) {
    const blank = text.lastIndexOf("\n\n", at + LONGEST_BLOCK - 2);
    const next = text.indexOf("\n\n", at + LONGEST_BLOCK);
    const end =
      text.length - at <= LONGEST_BLOCK ? text.length : blank > at ? blank + 2 : next < 0 ? text.length : next + 2;
    pieces.push(text.slice(at, end));
    at = end;
  }
  return pieces;
}

/** Splits a text into blocks. A paragraph that is nested too deep to be parsed is a block of its own. */
function blocksOf(text: string): string[] {
  if (text.length > LONGEST_BLOCK) return [text];
  const blocks: string[] = [];
  let rest = text;
  for (let deep = tooDeep(rest); deep; deep = tooDeep(rest)) {
    blocks.push(...parsed(rest.slice(0, deep.start)), rest.slice(deep.start, deep.end));
    rest = rest.slice(deep.end);
  }
  return [...blocks, ...parsed(rest)];
}

/** Parses a text into blocks. Blank lines belong to the block before them, so the joined blocks are the text. */
function parsed(text: string): string[] {
  const blocks: string[] = [];
  let at = 0;
  for (const token of markdown.lexer(text)) {
    // The lexer turns \r\n into \n and tabs into spaces. Its lengths are valid only for a text that it leaves unchanged.
    const raw = text.startsWith(token.raw, at) ? token.raw : text.slice(at);
    if (raw === "") continue;
    at += raw.length;
    if (token.type === "space" && blocks.length > 0) blocks[blocks.length - 1] += raw;
    else blocks.push(raw);
  }
  return blocks;
}
