/** Tests the package as npm packs it: its files, its installation, and its types under each module resolution. */

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { scripted, startServer } from "./support/server.ts";

const run = promisify(execFile);
const root = new URL("..", import.meta.url).pathname;
let folder: string;
let tarball: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "caudal-client-"));
  const { stdout } = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
    cwd: root,
  });
  tarball = join(folder, (JSON.parse(stdout) as { filename: string }[])[0]?.filename ?? "");
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "user", type: "module", private: true }));
  const install = ["install", "--offline", "--no-audit", "--no-fund", "--legacy-peer-deps", tarball];
  await run("npm", install, { cwd: folder });
}, 60_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

test("installs without other packages, and has only built files", async () => {
  const { stdout } = await run("tar", ["-tzf", tarball]);
  const files = stdout.trim().split("\n");
  expect(files.filter((file) => !/^package\/(dist\/|package\.json$|README\.md$)/.test(file))).toEqual([]);
  const lock = JSON.parse(await readFile(join(folder, "package-lock.json"), "utf8")) as { packages: object };
  expect(Object.keys(lock.packages)).toEqual(["", "node_modules/caudal-client"]);
});

test("has types that are right for ESM and for bundlers", async () => {
  const packed = createPackageFromTarballData(new Uint8Array(await readFile(tarball)));
  const result = await checkPackage(packed);
  // An ESM package: CommonJS of Node 20 cannot `require` it, and resolution from before 2020 does not know `exports`.
  const excused = new Set(["CJSResolvesToESM"]);
  const problems = "problems" in result ? result.problems : [{ kind: "no types" }];
  const wrong = problems.filter((problem) => {
    const isOld = "resolutionKind" in problem && problem.resolutionKind === "node10";
    return !excused.has(problem.kind) && !isOld;
  });
  expect(wrong).toEqual([]);
});

test("a Node process outlives a server that accepts and closes", async () => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const program = `
    import { WebSocket } from ${JSON.stringify(join(root, "node_modules/ws/wrapper.mjs"))};
    import { CaudalClient } from "caudal-client";
    const reconnect = { giveUpAfterMs: 3_000 };
    const client = new CaudalClient({ url: "http://127.0.0.1:${port}", webSocket: WebSocket, reconnect });
    await client.responses.create({ input: "hello" }).final().catch((error) => console.log(error.name));
    client.close();`;
  try {
    const { stdout } = await run(process.execPath, ["--input-type=module", "-e", program], { cwd: folder });
    expect(stdout.trim()).toBe("ConnectionError");
  } finally {
    server.close();
  }
}, 30_000);

test("answers, from its core and from its command", async () => {
  const server = await startServer(scripted(10, 0));
  try {
    const program = `
      import { CaudalClient } from "caudal-client";
      const client = new CaudalClient({ url: ${JSON.stringify(server.url)} });
      for await (const text of client.responses.create({ input: "hello" }).text()) process.stdout.write(text);
      client.close();`;
    const { stdout } = await run(process.execPath, ["--input-type=module", "-e", program], { cwd: folder });
    expect(stdout).toMatch(/^A river does not ask/);
    const command = run(join(folder, "node_modules/.bin/caudal-chat"), ["--url", server.url, "hello"]);
    command.child.stdin?.end();
    expect((await command).stdout).toMatch(/^A river does not ask/);
  } finally {
    await server.stop();
  }
});

test("type-checks in a strict program; the core needs no types of Node or React", async () => {
  await writeFile(
    join(folder, "user.ts"),
    `import { CaudalClient, jsonFormat, type ResponseEvent } from "caudal-client";
     const client = new CaudalClient({ url: "http://127.0.0.1:8080", token: async () => ({ value: "s", expires_at: 1 }) });
     export const answer = client.responses.create({ input: [{ role: "user", content: "hi" }] });
     export const events: AsyncIterable<ResponseEvent> = answer;
     export const text: Promise<{ a: number }> = answer.json((value) => value as { a: number });
     export { jsonFormat };`,
  );
  await mkdir(join(folder, "node_modules/.types"), { recursive: true });
  const options = ["--strict", "--exactOptionalPropertyTypes", "--skipLibCheck", "false", "--noEmit", "--types", ""];
  for (const resolution of [
    ["--module", "nodenext"],
    ["--module", "esnext", "--moduleResolution", "bundler"],
  ]) {
    const args = [...options, ...resolution, "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "user.ts"];
    await run(join(root, "node_modules/.bin/tsc"), args, { cwd: folder }).catch((error: { stdout: string }) => {
      throw new Error(error.stdout);
    });
  }
  await writeFile(
    join(folder, "adapters.ts"),
    `import { useCaudalRuntime } from "caudal-client/assistant-ui";
     import { CaudalChatTransport } from "caudal-client/ai-sdk";
     import { useConversation } from "caudal-client/react";
     import { chat } from "caudal-client/node";
     export { CaudalChatTransport, chat, useCaudalRuntime, useConversation };`,
  );
  for (const peer of ["react", "ai", "@assistant-ui", "@types", "@ai-sdk", "undici-types", "csstype"]) {
    await symlink(join(root, "node_modules", peer), join(folder, "node_modules", peer)).catch(() => undefined);
  }
  const args = ["--strict", "--skipLibCheck", "--noEmit", "--module", "nodenext", "--types", "node", "adapters.ts"];
  await run(join(root, "node_modules/.bin/tsc"), args, { cwd: folder }).catch((error: { stdout: string }) => {
    throw new Error(error.stdout);
  });
}, 60_000);
