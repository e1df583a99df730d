import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { TurnBoundary } from "../src/components/TurnBoundary.tsx";
import { BlockSplitter } from "../src/markdown/blocks.ts";
import { Markdown } from "../src/markdown/Markdown.tsx";
import type { Turn } from "../src/turn.ts";

const html = (text: string, unfinished = false): string =>
  renderToStaticMarkup(<Markdown text={text} unfinished={unfinished} />);

const DOCUMENT = `# Title

Some *text* with \`code\`
on two lines.

- one
- two

  still two

1. first

2. second

\`\`\`js
const a = 1;

const b = 2;
\`\`\`

| a | b |
|---|---|
| 1 | 2 |

> quote

The end.`;

describe("a growing text", () => {
  test("has at every length the blocks that it would have at once", () => {
    const splitter = new BlockSplitter();
    for (let length = 0; length <= DOCUMENT.length; length++) {
      const text = DOCUMENT.slice(0, length);
      expect(splitter.split(text)).toEqual(new BlockSplitter().split(text));
      expect(splitter.split(text).join("")).toBe(text);
    }
  });

  test("keeps its settled blocks, so that they are not drawn again", () => {
    const splitter = new BlockSplitter();
    const before = splitter.split("one\n\ntwo\n\nthree\n\nfo");
    const after = splitter.split("one\n\ntwo\n\nthree\n\nfour");
    expect(after.slice(0, 3)).toEqual(before.slice(0, 3));
    expect(after.at(-1)).toBe("four");
  });

  test("starts anew when it is another text", () => {
    const splitter = new BlockSplitter();
    splitter.split("one\n\ntwo\n\nthree\n\nfour");
    expect(splitter.split("else")).toEqual(["else"]);
  });

  test("shows what is open as if it were closed, while it is unfinished", () => {
    expect(html("some **bold", true)).toBe("<p>some <strong>bold</strong></p>");
    expect(html("some `code", true)).toBe("<p>some <code>code</code></p>");
    expect(html("see [the sea](https://exa", true)).toBe("<p>see the sea</p>");
    expect(html("```js\nlet a", true)).toContain("let a</code>");
    expect(html("some **bold", false)).toBe("<p>some **bold</p>");
  });
});

describe("nothing in the text acts", () => {
  test("HTML is text", () => {
    const out = html('<script>alert(1)</script>\n\nhi <img src=x onerror="alert(1)"> there');
    expect(out).not.toMatch(/<(script|img)/);
    expect(out).toContain("&lt;script&gt;");
    expect(out).toContain("&lt;img");
  });

  test.each(["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "/relative"])(
    "a link to %s is none",
    (href) => expect(html(`[text](${href})`)).toBe("<p>text</p>"),
  );

  test("a link to the web opens elsewhere and tells nothing", () => {
    expect(html("[text](https://example.org/a)")).toBe(
      '<p><a href="https://example.org/a" target="_blank" rel="noopener noreferrer">text</a></p>',
    );
  });

  test("an image is not fetched", () => {
    expect(html("![a river](https://example.org/r.png)")).not.toContain("<img");
  });
});

test("entities are the characters they stand for, once", () => {
  expect(html("a &amp; b &lt;i&gt; &#39; &amp;lt;")).toBe("<p>a &amp; b &lt;i&gt; &#x27; &amp;lt;</p>");
});

test("headings stay below the page's own", () => {
  expect(html("# One\n\n###### Six")).toBe("<h3>One</h3><h6>Six</h6>");
});

describe("no text breaks the page", () => {
  const N = 2500;
  const bombs: Record<string, string> = {
    quotes: ">".repeat(N),
    "quotes with spaces": `${"> ".repeat(N)}x`,
    lists: `${"- ".repeat(N)}x`,
    "numbered lists": `${"1. ".repeat(N)}x`,
    "quotes and lists": `${"> - ".repeat(N)}x`,
    "lists in lists": Array.from({ length: 600 }, (_, depth) => `${"  ".repeat(depth)}- a`).join("\n"),
    emphasis: "*a ".repeat(N) + "b*".repeat(N),
    "strong emphasis": "**a ".repeat(N) + "b**".repeat(N),
    links: `${"[".repeat(N)}x${"](http://a)".repeat(N)}`,
    images: "![".repeat(N),
    "code spans": `x ${"`".repeat(N)}`,
    "strike-through": "~~a ~b ".repeat(N) + "~~".repeat(N),
    entities: "&#".repeat(N),
  };

  test.each(Object.entries(bombs))("%s, nested deep, alone and between paragraphs", (_, bomb) => {
    for (const unfinished of [false, true]) {
      expect(html(bomb, unfinished)).not.toBe("");
      const between = html(`before\n\n${bomb}\n\nafter **all**`, unfinished);
      expect(between).toContain("<p>before</p>");
      expect(between).toContain("<strong>all</strong>");
    }
    expect(new BlockSplitter().split(`before\n\n${bomb}\n\nafter`).join("")).toBe(`before\n\n${bomb}\n\nafter`);
  });

  test("what is too deep is shown as it was written", () => {
    expect(html(">".repeat(30))).toBe(`<p class="plain">${"&gt;".repeat(30)}</p>`);
    expect(html("> > > three")).toContain("<blockquote>");
    const list = Array.from({ length: 300 }, (_, n) => `- **item** ${n}`).join("\n");
    expect(html(list)).toContain("<li><strong>item</strong> 299</li>");
  });

  test("a turn that cannot be drawn is plain text", () => {
    const turn: Turn = { ...({} as Turn), prompt: "why?", answer: "*because*", status: "done" };
    const boundary = new TurnBoundary({ turn, children: "drawn" });
    expect(boundary.render()).toBe("drawn");
    boundary.state = TurnBoundary.getDerivedStateFromError();
    const plain = renderToStaticMarkup(boundary.render());
    expect(plain).toContain("why?");
    expect(plain).toContain('<p class="plain">*because*</p>');
  });
});

describe("formulas", () => {
  test("are found, and prices are not", () => {
    expect(html("so $a^2$ and \\(b\\)")).toContain('<span class="formula">');
    expect(html("$$\\sum_i i$$")).toContain('class="formula display"');
    expect(html("it costs $5 and not $6")).toBe("<p>it costs $5 and not $6</p>");
    expect(html("`$a$`")).toBe("<p><code>$a$</code></p>");
  });
});

describe("work is bounded", () => {
  test("a wide table is plain text", () => {
    const row = "|a".repeat(2_500);
    expect(html(`${row}|\n${"|-".repeat(2_500)}|\n${row}|`)).toContain('<p class="plain">');
  });

  test("a block that is too long is plain text, and those around it are not", () => {
    const long = "word ".repeat(20_000);
    const out = html(`**before**\n\n${long}\n\n**after**`);
    expect(out).toContain("<strong>before</strong>");
    expect(out).toContain("<strong>after</strong>");
    expect(out).toContain('<p class="plain">');
  });

  test("a megabyte in one line takes no longer with each frame", () => {
    const splitter = new BlockSplitter();
    const text = "*a* ".repeat(250_000);
    const began = performance.now();
    for (let frame = 1; frame <= 20; frame++) splitter.split(text.slice(0, (text.length / 20) * frame));
    expect(performance.now() - began).toBeLessThan(1_000);
    expect(splitter.split(text).join("")).toBe(text);
  });
});
