import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface Server {
  url: string;
  process: ChildProcess;
  stop(): Promise<void>;
}

/** Starts the real binary on a free port. Throws if the binary is missing: no test is skipped. */
export async function startServer(settings: Record<string, string | number>): Promise<Server> {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(homedir(), ".cache/caudal/target");
  const binary = process.env["CAUDAL_BIN"] ?? join(target, "release/caudal");
  if (!existsSync(binary))
    throw new Error(`There is no server at ${binary}: run \`make build\` first, or set CAUDAL_BIN.`);
  const set = Object.entries({ "server.bind": "127.0.0.1:0", "store.kind": "memory", ...settings }).flatMap(
    ([k, v]) => ["--set", `${k}=${v}`],
  );
  const child = spawn(binary, ["serve", ...set], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-4000);
  });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const url = await new Promise<string>((resolve, reject) => {
    createInterface(child.stdout).once("line", (line) => {
      const [, address] = /^listening on (http:\/\/\S+)$/.exec(line) ?? [];
      if (address) resolve(address);
      else reject(new Error(`The server's first line was: ${line}`));
    });
    void exited.then(() => reject(new Error(`The server ended before it listened:\n${said}`)));
  });
  return {
    url,
    process: child,
    stop: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

export function scripted(tokens: number, tokensPerSecond: number): Record<string, string | number> {
  return {
    "engine.kind": "scripted",
    "engine.scripted.tokens": tokens,
    "engine.scripted.tokens_per_second": tokensPerSecond,
  };
}
