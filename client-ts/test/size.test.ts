import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { expect, test } from "vitest";

const SRC = new URL("../src/", import.meta.url).pathname;
/** The core loads these when they are used. */
const LAZY = /\/(sse|branches|json|steer|follow|function-call)\.ts$/;

const CLIENT = `export { CaudalClient } from "${SRC}index.ts";`;
const CORE = `export * as core from "${SRC}index.ts";`;
const REACT = `export * as react from "${SRC}react/index.ts";`;

/** What the code takes, minified and compressed. */
async function sizeOf(code: string): Promise<number> {
  const entry = "\0entry";
  const bundle = await rolldown({
    input: entry,
    external: [/^(react|ai|@assistant-ui\/react)$/, LAZY],
    plugins: [
      {
        name: "entry",
        resolveId: (id) => (id === entry ? id : null),
        load: (id) => (id === entry ? code : null),
      },
    ],
  });
  const { output } = await bundle.generate({ format: "es", minify: true });
  return gzipSync(output[0].code).length;
}

/** The README has the same figures. An adapter counts without what it is built on. */
test.each([
  ["the core", CLIENT, "", 9.25],
  ["all of the core", CORE, "", 10.75],
  ["react", CORE + REACT, CORE, 4],
  ["ai-sdk", `${CORE} export * as ai from "${SRC}ai-sdk/index.ts";`, CORE, 4],
  ["assistant-ui", `${CORE + REACT} export * as ui from "${SRC}assistant-ui/index.ts";`, CORE + REACT, 4],
])("%s stays small", async (name, code, base, limitKb) => {
  const size = (await sizeOf(code)) - (base === "" ? 0 : await sizeOf(base));
  console.log(`caudal-client, ${name}: ${(size / 1024).toFixed(1)} KB min+gzip`);
  expect(size).toBeGreaterThan(500);
  expect(size).toBeLessThan(limitKb * 1024);
});
