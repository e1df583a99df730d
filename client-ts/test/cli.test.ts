/** Tests the packed terminal chat on the real server. */

import { type ChildProcess, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { online } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, later } = online();

const CLI = new URL("../dist/node/cli.js", import.meta.url).pathname;

interface Run {
  process: ChildProcess;
  /** The output so far. */
  readonly written: string;
  type(line: string): void;
  until(pattern: RegExp): Promise<void>;
  readonly ended: Promise<number | null>;
}

/** Returns the text without the cursor, colours and cursor movements. */
function shown(written: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal's
  return written.replace(/\x1b7▍\x1b8|\x1b7|\x1b\[[0-9;]*[A-Za-z]|\r/g, "");
}

/** Returns the id of the process that `script` runs. */
async function inner(run: Run): Promise<number> {
  const children = await readFile(`/proc/${run.process.pid}/task/${run.process.pid}/children`, "utf8");
  const shell = Number(children.trim());
  const grandchildren = await readFile(`/proc/${shell}/task/${shell}/children`, "utf8");
  return Number(grandchildren.trim()) || shell;
}

function start(command: string, args: string[], env: Record<string, string>): Run {
  const child = spawn(command, args, { env: { ...process.env, ...env } });
  later(() => void child.kill("SIGKILL"));
  let written = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (written += String(chunk)));
  return {
    process: child,
    get written() {
      return written;
    },
    type: (line) => void child.stdin.write(`${line}\n`),
    until: async (pattern) => {
      for (let waited = 0; !pattern.test(shown(written)); waited += 10) {
        if (waited > 15_000) throw new Error(`never came: ${pattern}\n${written}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    ended: new Promise((resolve) => child.once("close", resolve)),
  };
}

/** Starts the chat in a pseudo-terminal. */
const inTerminal = (url: string, options = ""): Run =>
  start("script", ["-qefc", `${process.execPath} ${CLI} ${options}`, "/dev/null"], { CAUDAL_URL: url });

test("answers a question and piped input, with a matching exit status", async () => {
  const { url } = await server(scripted(10, 0));
  const run = start(process.execPath, [CLI, "Sum", "this", "up:"], { CAUDAL_URL: url });
  run.process.stdin?.end("a long text");
  expect(await run.ended).toBe(0);
  expect(run.written).toMatch(/^A river does not ask.*\n$/);
  const refused = start(process.execPath, [CLI, "--url", url, "--model", "none", "hello"], {});
  refused.process.stdin?.end();
  expect(await refused.ended).toBe(1);
  expect(refused.written).toMatch(/caudal-chat: .*none/);
  const empty = start(process.execPath, [CLI, "--url", url], {});
  empty.process.stdin?.end(" \n");
  expect(await empty.ended).toBe(1);
  expect(empty.written).toBe("caudal-chat: The input is empty. Pass a prompt, or text through a pipe.\n");
});

test("stops the answer at Ctrl-C, and exits when its output is closed", async () => {
  const { url } = await server(scripted(3_000, 100));
  const run = start(process.execPath, [CLI, "hello"], { CAUDAL_URL: url });
  run.process.stdin?.end();
  await run.until(/A river/);
  run.process.kill("SIGINT");
  expect(await run.ended).toBe(1);
  expect(run.written).not.toContain("caudal-chat:");
  const piped = start("sh", ["-c", `${process.execPath} ${CLI} hello < /dev/null | head -c 5`], { CAUDAL_URL: url });
  expect(await piped.ended).toBe(0);
  expect(piped.written).toBe("A riv");
});

describe("in a terminal", () => {
  test("streams with a cursor, stops, answers again, and goes on in the conversation", async () => {
    const { url } = await server(scripted(300, 100));
    const run = inTerminal(url);
    await run.until(/› /);
    run.type("one");
    await run.until(/A river does not ask.*▍$/);
    run.type("/stop");
    await run.until(/A river does not ask[\s\S]*\n› $/);
    run.type("/regenerate");
    await run.until(/› [^\n]*regenerate\n+A river does not ask/);
    run.type("\x03");
    await run.until(/regenerate\n+A river does not ask[\s\S]*\n› $/);
    run.type("/quit");
    expect(await run.ended).toBe(0);
    const conversations = (await (await fetch(`${url}/v1/conversations`)).json()) as { data: { id: string }[] };
    const items = await (await fetch(`${url}/v1/conversations/${conversations.data[0]?.id}/items`)).json();
    expect((items as { data: unknown[] }).data).toHaveLength(2);
  });

  test("takes one question at a time, quits during an answer, and continues the conversation", async () => {
    const { url } = await server(scripted(300, 100));
    const run = inTerminal(url);
    await run.until(/› /);
    run.type("one\ntwo");
    await run.until(/An answer is still running/);
    await run.until(/A river does not ask/);
    run.type("/quit");
    expect(await run.ended).toBe(0);
    expect(run.written).not.toContain("caudal-chat:");
    const [, id = ""] = /caudal-chat --conversation (conv_\w+)/.exec(run.written) ?? [];
    const next = inTerminal(url, `--conversation ${id}`);
    await next.until(/A river does not ask[\s\S]*\n› $/);
    next.type("constructor");
    await next.until(/constructor\n+A river does not ask/);
    next.type("/quit");
    expect(await next.ended).toBe(0);
    const items = await (await fetch(`${url}/v1/conversations/${id}/items?order=asc`)).json();
    const { data } = items as { data: { content: { text: string }[] }[] };
    const texts = data.map(({ content }) => content[0]?.text.slice(0, 11));
    expect(texts).toEqual(["one", "A river doe", "constructor"]);
  });

  test("goes on after it was stopped by Ctrl-Z, and after the network was gone", async () => {
    const proxy = await proxied(scripted(120, 60));
    const run = inTerminal(proxy.url);
    await run.until(/› /);
    run.type("one");
    await run.until(/A river/);
    const pid = await inner(run);
    process.kill(pid, "SIGSTOP");
    proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, 300));
    process.kill(pid, "SIGCONT");
    // `script` has stopped, too.
    run.process.kill("SIGCONT");
    await run.until(/A river[\s\S]*\n› $/);
    expect(proxy.accepted).toBeGreaterThan(1);
    expect(shown(run.written)).toContain("the network is lost");
    expect(run.written).not.toContain("caudal-chat:");
  });
});
