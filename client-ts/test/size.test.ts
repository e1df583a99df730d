import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, type Rolldown } from "vite";
import { expect, test } from "vitest";

/** What a page loads at first, minified and compressed; the README has the same figures. */
const LIMITS_KB: readonly [what: string, limitKb: number][] = [
  ['export { CaudalClient } from "../../src/index.ts"', 11],
];

test.each(LIMITS_KB)("%s stays small", async (entry, limitKb) => {
  const folder = await mkdtemp(join(import.meta.dirname, "size-"));
  try {
    const size = await loadedAtFirst(folder, entry);
    console.log(`${entry}: ${(size / 1024).toFixed(1)} KB min+gzip`);
    expect(size).toBeGreaterThan(500);
    expect(size).toBeLessThan(limitKb * 1024);
  } finally {
    await rm(folder, { recursive: true });
  }
});

/** The entry with everything that it imports statically. */
async function loadedAtFirst(folder: string, entry: string): Promise<number> {
  await writeFile(join(folder, "entry.ts"), entry);
  const built = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      minify: true,
      modulePreload: false,
      target: "es2022",
      rolldownOptions: {
        input: join(folder, "entry.ts"),
        preserveEntrySignatures: "strict",
        external: [/^react/, /^@assistant-ui/, /^ai$/, /^caudal-client$/, /^node:/],
      },
    },
  });
  const chunks = (built as Rolldown.RolldownOutput).output.filter((chunk) => chunk.type === "chunk");
  const byName = new Map(chunks.map((chunk) => [chunk.fileName, chunk]));
  const loaded = new Set<string>();
  const load = (name: string): void => {
    const chunk = byName.get(name);
    if (!chunk || loaded.has(name)) return;
    loaded.add(name);
    for (const imported of chunk.imports) load(imported);
  };
  for (const chunk of chunks) if (chunk.isEntry) load(chunk.fileName);
  return [...loaded].reduce((sum, name) => sum + gzipSync(byName.get(name)?.code ?? "").length, 0);
}
