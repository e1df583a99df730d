import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts", "chat/test/**/*.test.{ts,tsx}"],
    testTimeout: 20_000,
    fileParallelism: false,
  },
});
