// Writes the public declarations of each entry of the package to api/*.txt. With --check, fails if a file is not
// current.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";

const root = join(import.meta.dirname, "..");
const dist = join(root, "dist");
const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));

/** Collects the declarations of a file and of all files that it imports, each once. */
async function declarations(file, seen) {
  if (seen.has(file)) return;
  const text = await readFile(file, "utf8");
  seen.set(file, text.trim());
  for (const [, path] of text.matchAll(/from "(\.[^"]+)\.[tj]s"/g))
    await declarations(join(dirname(file), `${path}.d.ts`), seen);
}

/** The core's declarations are in its own report only. */
const core = new Map();
await declarations(join(root, exports["."].types), core);

let stale = 0;
for (const [name, target] of Object.entries(exports)) {
  if (typeof target === "string") continue;
  const seen = new Map(name === "." ? [] : core);
  await declarations(join(root, target.types), seen);
  // The protocol's types have a report of their own: docs/openapi.json.
  const own = [...seen].filter(([file]) => name === "." || !core.has(file));
  const parts = own.filter(([file]) => !file.endsWith("/wire.d.ts"));
  const report = parts.map(([file, text]) => `// ${relative(dist, file)}\n${text}\n`).join("\n");
  const path = join(root, "api", `${name === "." ? "index" : name.slice(2)}.txt`);
  if (process.argv.includes("--check")) {
    if ((await readFile(path, "utf8").catch(() => "")) === report) continue;
    console.error(`${relative(root, path)} is not current: run \`npm run api\` and review the change.`);
    stale++;
  } else {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, report);
  }
}
process.exitCode = stale === 0 ? 0 : 1;
