// Sends one question and streams the answer: node examples/node/ask.mjs "Why is the sky blue?"
import { CaudalClient } from "caudal-client";

// Node 22 has a WebSocket. In Node 20 answers come over server-sent events, unless `webSocket` is the class of the
// package `ws`.
const client = new CaudalClient({ url: process.env.CAUDAL_URL ?? "http://127.0.0.1:8080" });
const input = process.argv.slice(2).join(" ") || "Explain how a river finds its way to the sea.";

const answer = client.responses.create(
  { input },
  { onQueued: ({ position }) => console.error(`number ${position} in line`) },
);
process.once("SIGINT", () => answer.cancel());

for await (const text of answer.text()) process.stdout.write(text);
const { status, usage } = await answer.final();
console.error(`\n${status}: ${usage?.output_tokens} tokens`);
client.close();
