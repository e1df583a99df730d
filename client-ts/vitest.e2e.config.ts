import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // The scripts that take pictures and measure are named when they are wanted.
    include: [
      process.env["SCREENSHOT"] ? "e2e/screenshot.ts" : process.env["BENCH"] ? "e2e/bench.ts" : "e2e/**/*.e2e.ts",
    ],
    testTimeout: 180_000,
    hookTimeout: 120_000,
    fileParallelism: false,
  },
});
