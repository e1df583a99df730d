import type { ConversationItem } from "caudal-client";
import { describe, expect, test } from "vitest";
import { CONTINUE, itemsOf, merged, messageOf, turnsOf } from "../src/transcript.ts";
import type { Turn } from "../src/turn.ts";

const user = (id: string, text: string): ConversationItem => ({
  type: "message",
  id,
  role: "user",
  status: "completed",
  content: [{ type: "input_text", text }],
});

const answer = (id: string, text: string, status: "completed" | "incomplete" = "completed"): ConversationItem => ({
  type: "message",
  id,
  role: "assistant",
  status,
  content: [{ type: "output_text", text, annotations: [], logprobs: [] }],
});

const turn = (key: string, prompt: string, status: Turn["status"], said = ""): Turn => ({
  key,
  prompt,
  status,
  answer: said,
});

describe("turns of items", () => {
  test("begin with a message of the user and hold all that follows", () => {
    const turns = turnsOf([
      {
        type: "message",
        id: "s",
        role: "system",
        status: "completed",
        content: [{ type: "input_text", text: "Be brief." }],
      },
      user("u1", "Weather?"),
      { type: "reasoning", id: "r", status: "completed", summary: [{ type: "summary_text", text: "I look it up." }] },
      { type: "function_call", id: "f", call_id: "c", name: "weather", arguments: "{}", status: "completed" },
      { type: "function_call_output", id: "o", status: "completed", call_id: "c", output: "clear" },
      answer("a1", "Clear."),
      user("u2", "And tomorrow?"),
      answer("a2", "Cl", "incomplete"),
    ]);
    expect(turns).toEqual([
      {
        ...turn("u1", "Weather?", "done", "Clear."),
        thinking: { text: "I look it up.", over: true },
        calls: [{ id: "c", name: "weather", arguments: "{}", done: true, output: "clear" }],
      },
      turn("u2", "And tomorrow?", "stopped", "Cl"),
    ]);
  });

  test("without an answer are waited for if they are the last", () => {
    const [first, last] = turnsOf([user("u1", "one"), user("u2", "two")]);
    expect([first?.status, last?.status]).toEqual(["failed", "waiting"]);
  });
});

describe("the server's turns and the page's", () => {
  test("are the server's, with the figures of the page", () => {
    const ours = [{ ...turn("k1", "one", "done", "1"), tokens: 5 }, turn("k2", "two", "done", "other")];
    const theirs = [turn("u1", "one", "done", "1"), turn("u2", "two", "done", "2"), turn("u3", "three", "waiting")];
    expect(merged(theirs, ours)).toEqual([ours[0], { ...theirs[1], key: "k2" }, theirs[2]]);
  });

  test("keep what is asked here and has not begun, after what others have asked meanwhile", () => {
    const pending = turn("k2", "mine", "waiting");
    const ours = [turn("k1", "one", "done", "1"), pending];
    const theirs = [turn("u1", "one", "done", "1"), turn("u2", "theirs", "waiting")];
    expect(merged(theirs.slice(0, 1), ours)).toEqual(ours);
    expect(merged(theirs, ours)).toEqual([ours[0], theirs[1], pending]);
  });

  test("keep what went wrong here, and what runs here", () => {
    const failed = { ...turn("k1", "one", "failed"), problem: { message: "Busy.", canRetry: true } };
    expect(merged([], [failed])).toEqual([failed]);
    expect(merged([turn("u1", "one", "waiting")], [failed])).toEqual([failed]);
    const streaming = turn("k1", "one", "streaming", "half");
    expect(merged([turn("u1", "one", "waiting")], [streaming])).toEqual([streaming]);
    expect(merged([turn("u1", "one", "done", "whole")], [streaming])).toEqual([turn("k1", "one", "done", "whole")]);
  });
});

describe("turns of this browser that the server does not have", () => {
  const local = (key: string, prompt: string, said: string): Turn => ({
    ...turn(key, prompt, "done", said),
    where: "browser",
    awaitsJoin: true,
  });

  test("stay, although they had ended before the server was asked", () => {
    const ours = [turn("k1", "one", "done", "1"), local("k2", "two", "2")];
    const theirs = [turn("u1", "one", "done", "1")];
    expect(merged(theirs, ours, new Set(["k1"]))).toEqual(ours);
  });

  test("stand in place of the part that the server has, and after what others have asked", () => {
    const handedOver = local("k1", "one", "half, and the rest");
    expect(merged([turn("u1", "one", "stopped", "half")], [handedOver])).toEqual([handedOver]);
    const other = turn("u1", "theirs", "done", "1");
    expect(merged([other], [handedOver])).toEqual([other, handedOver]);
  });

  test("say where they were made once they have joined", () => {
    const metadata = { where: "browser", run: "resp_1" };
    const items = [user("u1", "one"), { ...answer("a1", "1"), metadata } as ConversationItem];
    expect(turnsOf(items)).toEqual([{ ...turn("u1", "one", "done", "1"), where: "browser" }]);
  });
});

test("what has been said is what was answered", () => {
  const turns = [turn("a", "one", "done", "1"), turn("b", "two", "failed"), turn("c", "three", "waiting")];
  expect(itemsOf(turns)).toEqual([
    { role: "user", content: "one" },
    { role: "assistant", content: "1" },
  ]);
});

describe("attachments", () => {
  test("come back as they went, whether the server joins the parts or not", () => {
    const attachments = [
      { name: "a.txt", text: "one\n</file>\ntwo" },
      { name: "b.txt", text: "" },
    ];
    const { content } = messageOf({ prompt: "Read.", attachments });
    const parts = content as { type: "input_text"; text: string }[];
    const joined = user("u", parts.map(({ text }) => text).join(""));
    for (const item of [joined, { ...joined, content: parts } as ConversationItem]) {
      expect(turnsOf([item])[0]).toMatchObject({ prompt: "Read.", attachments });
    }
  });

  test("are no attachments in the middle of a text", () => {
    const text = 'x\n\n<file name="a">\ny\n</file>\nz';
    expect(turnsOf([user("u", text)])[0]).toEqual(turn("u", text, "waiting"));
  });
});

test("a cut answer and its continuation are one answer", () => {
  const asks: ConversationItem = { ...user("d", CONTINUE), role: "developer" } as ConversationItem;
  const turns = turnsOf([user("u", "one"), answer("a", "Down it", "incomplete"), asks, answer("b", "goes.")]);
  expect(turns).toEqual([turn("u", "one", "done", "Down it goes.")]);
});
