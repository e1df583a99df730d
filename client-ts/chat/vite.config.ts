import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const source = new URL("../src/", import.meta.url).pathname;

export default defineConfig({
  // Relative, so that the page also works behind a path prefix.
  base: "./",
  plugins: [react()],
  resolve: {
    alias: [
      { find: /^caudal-client$/, replacement: `${source}index.ts` },
      { find: /^caudal-client\/local$/, replacement: `${source}local/index.ts` },
    ],
  },
  // The service worker reads the list of all files from the manifest.
  build: { outDir: "dist", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0, manifest: "assets.json" },
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8080", ws: true } } },
});
