import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";

const SRC = new URL("../../src/", import.meta.url).pathname;
/** The modules that the core loads lazily. */
const LAZY = /\/(sse|branches|json|steer|follow|reading|start|join)\.ts$/;

const CLIENT = `export { CaudalClient } from "${SRC}index.ts";`;
const CORE = `export * as core from "${SRC}index.ts";`;
const REACT = `export * as react from "${SRC}react/index.ts";`;

/** The code of each part, and its base: an adapter's size does not include the code that it builds on. */
const PARTS: Record<string, readonly [code: string, base?: string]> = {
  "the core": [CLIENT],
  "all of the core": [CORE],
  react: [CORE + REACT, CORE],
  "ai-sdk": [`${CORE} export * as ai from "${SRC}ai-sdk/index.ts";`, CORE],
  local: [`${CORE} export * as local from "${SRC}local/index.ts";`, CORE],
  "assistant-ui": [`${CORE + REACT} export * as ui from "${SRC}assistant-ui/index.ts";`, CORE + REACT],
};

/** Returns the size of each part in kilobytes, minified and compressed. */
export async function sizes(): Promise<Record<string, number>> {
  const measured = Object.entries(PARTS).map(async ([name, [code, base]]) => {
    const bytes = (await sizeOf(code)) - (base === undefined ? 0 : await sizeOf(base));
    return [name, Math.round((bytes / 1024) * 100) / 100] as const;
  });
  return Object.fromEntries(await Promise.all(measured));
}

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
