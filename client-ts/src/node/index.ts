/// <reference types="node" />
/** A chat in a terminal: what `npx -p caudal-client caudal-chat` runs. */

import process from "node:process";
import { createInterface, type Interface } from "node:readline/promises";
import { parseArgs } from "node:util";
import { CaudalClient } from "../client.ts";
import type { TurnParams } from "../conversations.ts";
import { CancelledError } from "../errors.ts";
import type { ResponseHandle } from "../handle.ts";
import type { WebSocketConstructor } from "../socket.ts";

/** What of the process a chat needs. */
export interface Terminal {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: Readonly<Record<string, string | undefined>>;
}

const USAGE = `caudal-chat [options] [prompt]

  --url URL            the server (CAUDAL_URL, http://127.0.0.1:8080); its key is CAUDAL_KEY
  --model MODEL        the model to ask
  --conversation ID    goes on with a conversation, also with an answer that runs
  --instructions TEXT  what the model is told before all else

With a prompt, or with input from a pipe, it answers once. Else it is a chat: /stop or Ctrl-C ends an answer,
/regenerate has the last one given again, /new begins another conversation, /quit or Ctrl-D leaves.
`;

const OPTIONS = {
  url: { type: "string" },
  model: { type: "string" },
  conversation: { type: "string" },
  instructions: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

/** Runs a chat to its end. Gives the exit status: 0, or 1 after a failure. */
export async function chat(args: readonly string[], terminal: Terminal): Promise<number> {
  const { stdin, stdout, stderr, env } = terminal;
  try {
    const { values, positionals } = parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true });
    if (values.help) return Number(!stdout.write(USAGE));
    const client = new CaudalClient({
      url: values.url ?? env["CAUDAL_URL"] ?? "http://127.0.0.1:8080",
      ...(env["CAUDAL_KEY"] === undefined ? {} : { token: env["CAUDAL_KEY"] }),
      ...(await webSocket()),
    });
    const { model, instructions } = values;
    const params: TurnParams = { ...(model && { model }), ...(instructions && { instructions }) };
    const talk = new Talk(client, terminal, params, values.conversation);
    try {
      const piped = stdin.isTTY ? "" : await textOf(stdin);
      const prompt = [positionals.join(" "), piped].filter((part) => part.trim() !== "").join("\n\n");
      return prompt === "" && stdin.isTTY ? await talk.converse() : await talk.ask(prompt);
    } finally {
      client.close();
    }
  } catch (error) {
    stderr.write(`caudal-chat: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}

/** Node 20 has no WebSocket. Without the package `ws`, answers come over HTTP. */
async function webSocket(): Promise<{ webSocket?: WebSocketConstructor }> {
  if ("WebSocket" in globalThis) return {};
  const name = "ws";
  const ws = await import(name).catch(() => undefined);
  return ws ? { webSocket: (ws as { WebSocket: WebSocketConstructor }).WebSocket } : {};
}

async function textOf(stream: NodeJS.ReadStream): Promise<string> {
  let text = "";
  for await (const chunk of stream.setEncoding("utf8")) text += chunk;
  return text;
}

class Talk {
  readonly #client: CaudalClient;
  readonly #terminal: Terminal;
  readonly #params: TurnParams;
  #conversation: string | undefined;
  #running: ResponseHandle | undefined;

  constructor(client: CaudalClient, terminal: Terminal, params: TurnParams, conversation: string | undefined) {
    this.#client = client;
    this.#terminal = terminal;
    this.#params = params;
    this.#conversation = conversation;
  }

  /** Asks once. */
  async ask(input: string): Promise<number> {
    const conversation = this.#conversation;
    return this.#show(this.#client.responses.create({ ...this.#params, ...(conversation && { conversation }), input }));
  }

  /** Asks what is typed, until the end of the input. */
  async converse(): Promise<number> {
    const { stdin, stdout, stderr } = this.#terminal;
    const lines = createInterface({ input: stdin, output: stdout, prompt: "› " });
    const unlisten = this.#client.onConnectionStateChange(({ status }) => {
      if (status === "waiting" && this.#running)
        stderr.write("\b \b\x1b[2m[the network is lost; going on when it is back] \x1b[0m▍");
    });
    // After Ctrl-Z the connection may be dead: the client finds out when its timers are late; this is sooner.
    const woken = (): void => {
      this.#client.connect();
      if (!this.#running) lines.prompt();
    };
    process.on("SIGCONT", woken);
    lines.on("SIGINT", () => (this.#running ? void this.#running.cancel() : lines.close()));
    try {
      if (this.#conversation !== undefined) await this.#resume(this.#conversation);
      lines.prompt();
      for await (const line of lines) if ((await this.#take(line.trim(), lines)) === "end") break;
      return 0;
    } finally {
      unlisten();
      process.off("SIGCONT", woken);
      lines.close();
    }
  }

  /** Does what a line says. While an answer comes, other lines are read, too. */
  async #take(line: string, lines: Interface): Promise<"end" | undefined> {
    if (line === "/quit") return "end";
    if (line === "/stop") await this.#running?.cancel();
    else if (this.#running) this.#terminal.stderr.write("An answer is on its way: /stop ends it.\n");
    else if (line === "/new") this.#conversation = undefined;
    else if (line !== "") {
      const answer = line === "/regenerate" ? this.#again() : this.#next(line);
      void answer.catch((error: Error) => this.#fail(error)).finally(() => lines.prompt());
      return undefined;
    }
    if (!this.#running) lines.prompt();
    return undefined;
  }

  async #next(input: string): Promise<void> {
    this.#conversation ??= (await this.#client.conversations.create()).id;
    await this.#show(this.#client.responses.create({ ...this.#params, conversation: this.#conversation, input }));
  }

  async #again(): Promise<void> {
    if (this.#conversation === undefined) return;
    await this.#show(await this.#client.conversations.regenerate(this.#conversation, this.#params));
  }

  /** Shows an answer that runs in the conversation. */
  async #resume(conversation: string): Promise<void> {
    const handle = this.#client.responses.resume({ conversation });
    const id = await handle.id.catch(() => undefined);
    if (id !== undefined && (await this.#client.responses.retrieve(id)).status === "in_progress")
      await this.#show(handle);
  }

  /** Writes the text as it comes, with a cursor behind it where there is a terminal. */
  async #show(handle: ResponseHandle): Promise<number> {
    const { stdout } = this.#terminal;
    const [cursor, erase] = stdout.isTTY ? ["▍", "\b \b"] : ["", ""];
    this.#running = handle;
    try {
      stdout.write(cursor);
      for await (const text of handle.text()) stdout.write(erase + text + cursor);
      const { status } = await handle.final();
      stdout.write(`${erase}\n`);
      return status === "completed" ? 0 : 1;
    } catch (error) {
      stdout.write(erase);
      this.#fail(error as Error);
      return 1;
    } finally {
      this.#running = undefined;
    }
  }

  #fail(error: Error): void {
    if (!(error instanceof CancelledError)) this.#terminal.stderr.write(`\ncaudal-chat: ${error.message}\n`);
  }
}
