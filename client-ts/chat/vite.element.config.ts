import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const source = new URL("../src/index.ts", import.meta.url).pathname;

/** Builds `<caudal-chat>` as one script beside the page; its lazy parts are separate files. */
export default defineConfig({
  plugins: [react()],
  resolve: { alias: { "caudal-client": source } },
  define: { "process.env.NODE_ENV": JSON.stringify("production") },
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2022",
    cssMinify: true,
    lib: {
      entry: new URL("src/element.tsx", import.meta.url).pathname,
      formats: ["es"],
      fileName: () => "caudal-chat.js",
    },
    minify: true,
    rolldownOptions: { output: { chunkFileNames: "assets/element-[name]-[hash].js" } },
  },
});
