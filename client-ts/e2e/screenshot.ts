/**
 * Takes the README's picture of the page: the real model, in the middle of an answer. Other views (dark, phone, empty)
 * go to a temporary folder, for looking at.
 */

import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "vitest";
import { chatServer, later, open, untilText, untilTurn } from "./support.ts";

const FOLDER = join(tmpdir(), "caudal-screenshots");
const README = new URL("../chat/screenshot.png", import.meta.url).pathname;

const VIEWS = [
  { name: "light", colorScheme: "light", width: 1200, height: 900 },
  { name: "dark", colorScheme: "dark", width: 1200, height: 900 },
  { name: "phone", colorScheme: "light", width: 390, height: 844 },
  { name: "phone-dark", colorScheme: "dark", width: 390, height: 844 },
] as const;

test("pictures", async () => {
  mkdirSync(FOLDER, { recursive: true });
  const server = await chatServer({ "engine.kind": "mistralrs", "engine.max_running": 1 });
  later(() => server.stop());
  for (const { name, colorScheme, width, height } of VIEWS) {
    const phone = width < 500;
    const options = {
      colorScheme,
      viewport: { width, height },
      isMobile: phone,
      hasTouch: phone,
      deviceScaleFactor: 2,
    };
    const page = await open(server.url, options);
    const picture = async (state: string): Promise<void> => {
      await page.screenshot({ path: join(FOLDER, `${name}-${state}.png`) });
    };
    await page.waitForSelector('[data-state="connected"]');
    await picture("empty");
    await page.fill("#message", "Write a Python function that reverses a string");
    await page.click("button.send");
    await untilTurn(page, "done");
    await picture("done");
    await page.fill("#message", "How do I stay focused while working from home?");
    await page.click("button.send");
    await untilText(page, 420);
    await page.screenshot({ path: name === "light" ? README : join(FOLDER, `${name}-streaming.png`) });
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");
    await picture("stopped");
  }
});
