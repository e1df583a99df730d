// A backend that gives its signed-in users a client secret: CAUDAL_KEY=… node client-secret.mjs, on Node 20 or newer.
import { createServer } from "node:http";

const { CAUDAL_URL = "http://127.0.0.1:8080", CAUDAL_KEY } = process.env;

createServer(async (request, response) => {
  if (request.method !== "POST" || request.url !== "/caudal-token") return response.writeHead(404).end();
  // Here, and before all else: who is this, and may they? Then pin what they get to what is theirs.
  try {
    const body = JSON.stringify({ value: await clientSecret() });
    response.writeHead(200, { "content-type": "application/json", "cache-control": "no-store" }).end(body);
  } catch (error) {
    console.error("no client secret:", error);
    response.writeHead(502).end();
  }
}).listen(3000, "127.0.0.1");

/** Rejects when Caudal cannot be reached, refuses, or answers something else than JSON. */
async function clientSecret() {
  const made = await fetch(`${CAUDAL_URL}/v1/client_secrets`, {
    method: "POST",
    headers: { authorization: `Bearer ${CAUDAL_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ expires_after: { seconds: 600 }, session: { max_output_tokens: 1000 } }),
  });
  if (!made.ok) throw new Error(`Caudal answered ${made.status}: ${await made.text()}`);
  return (await made.json()).value;
}

// In the page: new CaudalClient({ url, token: async () => (await (await fetch("/caudal-token", { method: "POST" })).json()).value })
