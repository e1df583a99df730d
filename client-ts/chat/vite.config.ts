import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const source = new URL("../src/", import.meta.url).pathname;

export default defineConfig({
  // Relative, so that the page works behind a path prefix too.
  base: "./",
  plugins: [react()],
  resolve: {
    alias: [
      { find: /^caudal-client$/, replacement: `${source}index.ts` },
      { find: /^caudal-client\/local$/, replacement: `${source}local/index.ts` },
    ],
  },
  // The list of all files is for the worker that stores them.
  build: { outDir: "dist", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0, manifest: "assets.json" },
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8080", ws: true } } },
});
