import { expect, test } from "vitest";
import { sizes } from "./support/sizes.ts";

/** Kilobytes; the README has the same figures. */
const LIMITS: Record<string, number> = {
  "the core": 9,
  "all of the core": 10.75,
  react: 4,
  "ai-sdk": 4,
  local: 4,
  "assistant-ui": 4,
};

test("the core and each adapter stay small", async () => {
  const measured = await sizes();
  console.log(`caudal-client, KB min+gzip: ${JSON.stringify(measured)}`);
  expect(Object.keys(measured)).toEqual(Object.keys(LIMITS));
  for (const [name, size] of Object.entries(measured)) {
    expect(size, name).toBeGreaterThan(0.5);
    expect(size, name).toBeLessThanOrEqual(LIMITS[name] ?? 0);
  }
});
