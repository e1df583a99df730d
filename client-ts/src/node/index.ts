/// <reference types="node" />
/** A chat in a terminal, which `npx -p caudal-client caudal-chat` runs. */

import process from "node:process";
import { createInterface } from "node:readline/promises";
import { text } from "node:stream/consumers";
import { parseArgs } from "node:util";
import { CaudalClient } from "../client.ts";
import type { TurnParams } from "../conversations.ts";
import { CancelledError, ClientClosedError } from "../errors.ts";
import type { ResponseHandle } from "../handle.ts";
import type { WebSocketConstructor } from "../socket.ts";

/** The parts of the process that a chat uses. */
export type Terminal = Pick<NodeJS.Process, "stdin" | "stdout" | "stderr" | "env">;

const USAGE = `caudal-chat [options] [prompt]

  --url URL            the server's address; default: $CAUDAL_URL, else http://127.0.0.1:8080
  --model MODEL        the model to use; default: the server's first
  --conversation ID    continues a conversation: shows its last answer first, even one that still runs
  --instructions TEXT  the system instructions

The API key is $CAUDAL_KEY. With a prompt or input from a pipe, prints one answer and exits. Otherwise opens a chat:
/stop or Ctrl-C stops the answer, /regenerate replaces the last answer, /new begins a new conversation,
/quit or Ctrl-D leaves.
`;

const TEXT = { type: "string" } as const;
const FLAG = { type: "boolean", short: "h" } as const;
const OPTIONS = { url: TEXT, model: TEXT, conversation: TEXT, instructions: TEXT, help: FLAG };

/** A cursor after the text. `ERASE` returns to the saved position and clears the rest of the screen. */
const CURSOR = "\x1b7▍";
const ERASE = "\x1b8\x1b[J";

/** Runs a chat to its end. Resolves to the exit status: 0, or 1 after a failure. */
export async function chat(args: readonly string[], terminal: Terminal): Promise<number> {
  const { stdin, stdout, env } = terminal;
  let client: CaudalClient | undefined;
  // The reader of a pipe may close it.
  stdout.once("error", () => process.exit(1));
  try {
    const { values, positionals } = parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true });
    const { url = env["CAUDAL_URL"] ?? "http://127.0.0.1:8080", help, conversation, ...params } = values;
    if (help) return Number(!stdout.write(USAGE));
    const key = env["CAUDAL_KEY"];
    client = new CaudalClient({ url, ...(key && { token: key }), ...(await webSocket()) });
    const piped = stdin.isTTY ? "" : await text(stdin);
    const input = [positionals.join(" "), piped].filter((part) => part.trim() !== "").join("\n\n");
    if (input === "" && stdin.isTTY) return await converse(client, terminal, params, conversation);
    if (input === "") throw new Error("The input is empty. Pass a prompt, or text through a pipe.");
    const handle = client.responses.create({ ...params, conversation: conversation ?? null, input });
    const stop = (): void => void handle.cancel();
    process.once("SIGINT", stop);
    return await show(handle, terminal).finally(() => process.off("SIGINT", stop));
  } catch (error) {
    return reportError(error, terminal);
  } finally {
    client?.close();
  }
}

/** Node 20 has no WebSocket. Without the package `ws`, answers come over HTTP. */
async function webSocket(): Promise<{ webSocket?: WebSocketConstructor }> {
  if ("WebSocket" in globalThis) return {};
  const name = "ws";
  const ws = (await import(name).catch(() => undefined)) as { WebSocket: WebSocketConstructor } | undefined;
  return ws ? { webSocket: ws.WebSocket } : {};
}

/** Reads lines until the end of the input, and runs each as a command or a question. */
async function converse(client: CaudalClient, terminal: Terminal, params: TurnParams, given?: string): Promise<number> {
  let conversation = given;
  let running: Promise<ResponseHandle> | undefined;
  const lines = createInterface({ input: terminal.stdin, output: terminal.stdout, prompt: "› " });
  const leave = new AbortController();
  const prompt = (): void => {
    if (!running && !leave.signal.aborted) lines.prompt();
  };
  const stop = (): unknown => running?.then((handle) => handle.cancel()).catch(() => undefined);

  /** Shows an answer, while lines are still read. */
  const answer = async (ask: () => Promise<ResponseHandle>): Promise<void> => {
    if (running) return void terminal.stderr.write("An answer is still running: /stop ends it.\n");
    running = ask();
    await running.then((handle) => show(handle, terminal)).catch((error) => reportError(error, terminal));
    running = undefined;
    prompt();
  };
  const next = async (input: string): Promise<ResponseHandle> => {
    conversation ??= (await client.conversations.create()).id;
    return client.responses.create({ ...params, conversation, input });
  };
  const commands = new Map<string, () => unknown>([
    ["/stop", stop],
    ["/regenerate", () => conversation && answer(() => client.conversations.regenerate(conversation ?? "", params))],
    ["/new", () => (conversation = undefined)],
    ["/quit", () => lines.close()],
  ]);

  client.onConnectionStateChange(({ status }) => {
    const note = `${ERASE}\x1b[2m[the network is lost; the answer continues when it is back]\x1b[0m ${CURSOR}`;
    if (running && status === "waiting") terminal.stdout.write(note);
  });
  // After Ctrl-Z the connection may be dead. `connect` ends a wait before the next attempt.
  const woken = (): void => {
    client.connect();
    prompt();
  };
  process.on("SIGCONT", woken);
  lines.on("SIGINT", () => (running ? stop() : lines.close()));
  lines.once("close", () => leave.abort());
  if (given !== undefined) void answer(async () => client.responses.resume({ conversation: given }));
  prompt();
  for await (const line of lines) {
    const input = line.trim();
    if (input !== "") void (commands.get(input) ?? (() => answer(() => next(input))))();
    prompt();
  }
  process.off("SIGCONT", woken);
  if (conversation) terminal.stdout.write(`\n\x1b[2mcaudal-chat --conversation ${conversation}\x1b[0m\n`);
  return 0;
}

/** Writes the text as it comes. Resolves to the exit status. */
async function show(handle: ResponseHandle, { stdout }: Terminal): Promise<number> {
  const [cursor, erase] = stdout.isTTY ? [CURSOR, ERASE] : ["", ""];
  try {
    stdout.write(cursor);
    for await (const text of handle.text()) stdout.write(erase + text + cursor);
    return (await handle.final()).status === "completed" ? 0 : 1;
  } finally {
    stdout.write(`${erase}\n`);
  }
}

/** Writes the error, unless the user caused it by a cancel. Returns the exit status. */
function reportError(error: unknown, { stderr }: Terminal): number {
  const isMine = error instanceof CancelledError || error instanceof ClientClosedError;
  if (!isMine) stderr.write(`caudal-chat: ${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
}
