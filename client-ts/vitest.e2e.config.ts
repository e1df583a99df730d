import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // The script that takes pictures is named when it is wanted.
    include: [process.env["SCREENSHOT"] ? "e2e/screenshot.ts" : "e2e/**/*.e2e.ts"],
    testTimeout: 180_000,
    hookTimeout: 120_000,
    fileParallelism: false,
  },
});
