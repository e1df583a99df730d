import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "vite";

const EXAMPLES = new URL("../examples/", import.meta.url).pathname;
const HERE = new URL(".", import.meta.url).pathname;

export interface Examples {
  /** Returns the folder that the server serves. */
  folder(name: string): string;
  remove(): Promise<void>;
}

/** Builds examples and test pages into a temporary folder. */
export async function buildExamples(...names: string[]): Promise<Examples> {
  const dist = await mkdtemp(join(tmpdir(), "caudal-examples-"));
  for (const name of names) {
    const root = join(existsSync(join(EXAMPLES, name)) ? EXAMPLES : HERE, name);
    const outDir = join(dist, name);
    await build({ root, configFile: join(EXAMPLES, "vite.config.ts"), logLevel: "error", build: { outDir } });
  }
  return { folder: (name) => join(dist, name), remove: () => rm(dist, { recursive: true, force: true }) };
}
