// Serves an example: npm run example react
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const [name = "react", ...args] = process.argv.slice(2);
const folder = join(root, "examples", name);
if (!existsSync(join(folder, "index.html"))) {
  console.error(`There is no example ${name}; examples/README.md has the list.`);
  process.exit(1);
}
const vite = ["vite", folder, "--config", join(root, "examples/vite.config.ts"), ...args];
process.exitCode = spawnSync("npx", vite, { stdio: "inherit", cwd: folder }).status ?? 1;
