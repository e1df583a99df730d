import { basename } from "node:path";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const src = new URL("../src/", import.meta.url).pathname;
const target = process.env["CAUDAL_URL"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  base: "./",
  cacheDir: `../../node_modules/.vite/examples-${basename(process.cwd())}`,
  plugins: [react()],
  resolve: {
    // Resolves the package from this repository. A project of your own uses `npm install caudal-client`.
    alias: [{ find: /^caudal-client(\/.+)?$/, replacement: `${src}$1/index.ts` }],
    dedupe: ["react", "react-dom"],
  },
  build: { target: "es2022", assetsInlineLimit: 0 },
  // The server serves the element and its parts.
  server: { proxy: { "/v1": { target, ws: true }, "^/(caudal-chat\\.js|assets/)": target } },
});
