import { describe, expect, test } from "vitest";
import { familiesOf } from "../src/chat-list.ts";
import type { ChatSummary } from "../src/chat-summary.ts";
import { variantsOf } from "../src/family.ts";
import { paramsOf, settingsFrom } from "../src/settings.ts";
import { tidy } from "../src/title.ts";

const chat = (id: string, createdAt: number, metadata: Record<string, string> = {}): ChatSummary => ({
  id,
  createdAt,
  metadata,
  title: metadata["title"],
});

const branch = (id: string, createdAt: number, parent: string, at: number): ChatSummary =>
  chat(id, createdAt, { root: "a", parent, at: String(at) });

describe("versions of a turn", () => {
  // b and c replace a's turn 1; d replaces turn 2 of b; e replaces turn 1 of d, which is b's.
  const chats = [
    chat("a", 1),
    branch("b", 2, "a", 1),
    branch("c", 3, "a", 1),
    branch("d", 4, "b", 2),
    branch("e", 5, "d", 1),
  ];

  test("are the turn of the base and of all forks before it", () => {
    for (const [id, index] of [
      ["a", 0],
      ["b", 1],
      ["c", 2],
      ["e", 3],
    ] as const) {
      expect(variantsOf(chats, id, 1)).toEqual({ ids: ["a", "b", "c", "e"], index });
    }
    expect(variantsOf(chats, "d", 1)).toEqual({ ids: ["a", "b", "c", "e"], index: 1 });
    expect(variantsOf(chats, "d", 2)).toEqual({ ids: ["b", "d"], index: 1 });
    expect(variantsOf(chats, "b", 2)).toEqual({ ids: ["b", "d"], index: 0 });
  });

  test("are none where nothing was edited, and a lost parent or a circle does no harm", () => {
    expect(variantsOf(chats, "a", 0)).toBeUndefined();
    expect(variantsOf(chats, "gone", 1)).toBeUndefined();
    expect(variantsOf(chats.slice(1), "b", 1)?.ids).toContain("b");
    expect(variantsOf([branch("x", 1, "x", 1)], "x", 1)).toBeUndefined();
  });
});

test("a list has one line for each family, with the title that any of it has", () => {
  const chats = [
    chat("c", 3, { root: "a", parent: "a", at: "0", title: "Rivers" }),
    chat("b", 2, { title: "Sea" }),
    chat("a", 1),
  ];
  expect(familiesOf(chats, "").map(({ id, title }) => [id, title])).toEqual([
    ["a", "Rivers"],
    ["b", "Sea"],
  ]);
  expect(familiesOf(chats, "riv").map(({ id }) => id)).toEqual(["a"]);
});

test("a title is the first line, bare", () => {
  expect(tidy('"**Rivers and seas.**"\nmore')).toBe("Rivers and seas");
  expect(tidy("Title: Rivers")).toBe("Rivers");
  expect(tidy("Here is a Python function that reverses a string")).toBe("");
  expect(tidy("```python\ndef f(): ...")).toBe("");
  expect(tidy("word ".repeat(30))).toBe("");
});

test("settings of any shape are read, and only what was chosen is sent", () => {
  expect(settingsFrom("x")).toEqual(settingsFrom(undefined));
  const settings = settingsFrom({
    theme: "odd",
    temperature: 0.7,
    topK: "x",
    variables: { a: 1, b: "2" },
    schema: "{}",
  });
  expect(settings).toMatchObject({ theme: "system", temperature: 0.7, variables: { b: "2" } });
  expect(settings.topK).toBeUndefined();
  expect(paramsOf(settings, undefined)).toEqual({
    temperature: 0.7,
    top_p: 0.9,
    text: { format: { type: "json_schema", name: "answer", schema: {} } },
  });
});
