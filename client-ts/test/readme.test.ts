import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { scripted, startServer } from "./support/server.ts";

const root = new URL("..", import.meta.url);

test("the README's first example runs as it is, on the built package", async () => {
  const server = await startServer(scripted(20, 0));
  try {
    const readme = await readFile(new URL("README.md", root), "utf8");
    const [, example = ""] = /```js\n([\s\S]*?)```/.exec(readme) ?? [];
    const here = example.replace("http://127.0.0.1:8080", server.url);
    expect(here).not.toBe(example);
    expect(example.trim().split("\n").length).toBeLessThanOrEqual(15);
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", here], { cwd: root });
    expect(stdout).toMatch(/^A river does not ask[\s\S]*\ncompleted: 20 tokens\n$/);
  } finally {
    await server.stop();
  }
});
