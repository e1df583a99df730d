import { gzipSync } from "node:zlib";
import { build, type Rolldown } from "vite";
import { expect, test } from "vitest";

/** Minified and compressed, with everything that the package exports; the README says so too. */
const LIMIT_KB = 9;

test("the package stays small", async () => {
  const entry = new URL("../src/index.ts", import.meta.url).pathname;
  const built = await build({
    configFile: false,
    logLevel: "silent",
    build: { write: false, minify: true, target: "es2022", lib: { entry, formats: ["iife"], name: "caudal" } },
  });
  const [{ output }] = built as [Rolldown.RolldownOutput];
  const code = output.flatMap((chunk) => (chunk.type === "chunk" ? [chunk.code] : [])).join("");
  const size = gzipSync(code).length;
  console.log(`caudal-client: ${(size / 1024).toFixed(1)} KB min+gzip`);
  expect(size).toBeGreaterThan(1000);
  expect(size).toBeLessThan(LIMIT_KB * 1024);
});
