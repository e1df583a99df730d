import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { BlockSplitter } from "../src/markdown/blocks.ts";
import { Markdown } from "../src/markdown/Markdown.tsx";

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
