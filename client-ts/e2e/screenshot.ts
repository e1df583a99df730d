/**
 * Takes the README's picture of the page, in the middle of an answer: the real page and the real stream, with the
 * scripted engine saying what makes a good picture. Dark and phone pictures go beside it, for looking at, not for the
 * repository.
 */

import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "vitest";
import { ask, chatServer, later, open, untilText, untilTurn } from "./support.ts";

const ANSWER = `A river begins as **rain and melting snow**. The water gathers in small streams, and gravity does the rest: it always takes the *steepest way down* that it can find.

### Three things shape its course

1. **Slope.** Steep ground makes it fast and straight; flat ground makes it slow and winding.
2. **Rock.** Soft rock is carved away, hard rock is gone around.
3. **Time.** A bend grows a little each year, until the river cuts through and leaves a lake behind.

The same in code, with \`height\` as the only rule:

\`\`\`python
def flow(terrain, point):
    """Follow the water until it reaches the sea."""
    path = [point]
    while terrain.height(point) > 0:
        point = min(terrain.neighbours(point), key=terrain.height)
        path.append(point)
    return path
\`\`\`

Where the ground is level, the river slows down, drops the sand that it carried, and splits into a **delta**: many small rivers that look for the sea each in its own way. `;

const PICTURES = [
  { path: new URL("../chat/screenshot.png", import.meta.url).pathname, colorScheme: "light", width: 1200, height: 900 },
  { path: picture("dark.png"), colorScheme: "dark", width: 1200, height: 900 },
  { path: picture("phone.png"), colorScheme: "light", width: 390, height: 844 },
  { path: picture("phone-dark.png"), colorScheme: "dark", width: 390, height: 844 },
] as const;

function picture(name: string): string {
  const folder = join(tmpdir(), "caudal-screenshots");
  mkdirSync(folder, { recursive: true });
  return join(folder, name);
}

test("pictures", async () => {
  const server = await chatServer({
    "engine.kind": "scripted",
    "engine.scripted.tokens": ANSWER.split(" ").length * 2,
    "engine.scripted.tokens_per_second": 80,
    "engine.scripted.prefill_ms": 120,
    "engine.scripted.text": JSON.stringify(ANSWER),
  });
  later(() => server.stop());
  for (const { path, colorScheme, width, height } of PICTURES) {
    const options = { colorScheme, viewport: { width, height }, deviceScaleFactor: 2, isMobile: width < 500 } as const;
    const page = await open(server.url, options);
    await page.waitForSelector('[data-state="connected"]');
    await page.screenshot({
      path: path.replace(/\.png$/, ".welcome.png").replace(/.*\//, `${tmpdir()}/caudal-screenshots/`),
    });
    await ask(page, "Explain how a river finds its way to the sea");
    await untilText(page, ANSWER.length - 160);
    await page.screenshot({ path });
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped", "done");
    await page.screenshot({
      path: path.replace(/\.png$/, ".stopped.png").replace(/.*\//, `${tmpdir()}/caudal-screenshots/`),
    });
  }
});
