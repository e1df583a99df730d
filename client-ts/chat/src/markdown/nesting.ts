/** Limits: containers (quotes, lists) that open on one line, columns of indentation, and openings of emphasis in a paragraph. */
const MOST_CONTAINERS = 20;
const MOST_INDENT = 160;
const MOST_DELIMITERS = 400;

/** The longest block that is parsed, in characters. A longer one would take more than a frame at each frame of its stream. */
export const LONGEST_BLOCK = 64_000;
/** The most cells of a text that is drawn as a table. */
export const MOST_CELLS = 4_000;

const CONTAINER = /[ \t]*(?:>|[-+*](?=[ \t]|$)|\d{1,9}[.)](?=[ \t]|$))/y;

/**
 * Finds the first paragraph that is nested too deep, from its first character to the blank line after it. The parser recurses
 * once for each level of quotes, lists and emphasis, and a text of 2 kB can have more levels than the stack has room for, so
 * depth is checked before a text is parsed. Linear in the text's length.
 */
export function tooDeep(text: string): { start: number; end: number } | undefined {
  let paragraph = 0;
  let delimiters = 0;
  for (let at = 0; at < text.length; ) {
    const newline = text.indexOf("\n", at);
    const end = newline === -1 ? text.length : newline + 1;
    const line = text.slice(at, end);
    if (line.trim() === "") {
      paragraph = end;
      delimiters = 0;
    } else {
      const containers = containersOf(line);
      // A new item, a quote and a row of a table each begin a paragraph of their own.
      if (containers > 0 || line.trimStart().startsWith("|")) delimiters = 0;
      delimiters += countDelimiters(line);
      if (containers > MOST_CONTAINERS || indentOf(line) > MOST_INDENT || delimiters > MOST_DELIMITERS) {
        return { start: paragraph, end: endOfParagraph(text, end) };
      }
    }
    at = end;
  }
  return undefined;
}

function containersOf(line: string): number {
  let count = 0;
  CONTAINER.lastIndex = 0;
  while (count <= MOST_CONTAINERS && CONTAINER.test(line)) count++;
  return count;
}

function indentOf(line: string): number {
  let columns = 0;
  for (const character of line) {
    if (character === " ") columns++;
    else if (character === "\t") columns += 4;
    else break;
  }
  return columns;
}

function countDelimiters(line: string): number {
  let count = 0;
  for (const character of line) if ("*_~[".includes(character)) count++;
  return count;
}

/** Returns the index at which the next blank line begins. */
function endOfParagraph(text: string, from: number): number {
  const blank = /^[ \t]*\r?$/m;
  const rest = text.slice(from);
  const found = blank.exec(rest);
  return found ? from + found.index : text.length;
}
