// The built SDK on every supported runtime: Node.js 20 and later over server-sent events or WebSocket, Deno, Bun.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { says, WORDS } from './server.mjs'

const path = (file) => fileURLToPath(new URL(file, import.meta.url))
const RUNTIMES = {
  'Node.js': [process.execPath],
  // Like Node.js 20, without a global WebSocket.
  'Node.js by server-sent events': [process.execPath, '--no-experimental-websocket'],
  Deno: [path('node_modules/.bin/deno'), 'run', '--quiet', '--no-config', '--allow-net=127.0.0.1', '--allow-read'],
  Bun: [path('node_modules/.bin/bun'), 'run'],
}

for (const [name, [binary, ...options]] of Object.entries(RUNTIMES)) {
  test(`the SDK on ${name}`, { timeout: 60_000 }, async (t) => {
    const server = await says(t, WORDS)
    const sdk = new URL('../../../client-ts/dist/index.js', import.meta.url).href
    const { stdout } = await promisify(execFile)(binary, [...options, path('runtime.mjs'), sdk, server.root])
    assert.deepEqual(JSON.parse(stdout), {
      text: WORDS,
      status: 'completed',
      resumed: true,
      items: 4,
      cancelled: true,
      refused: 'temperature',
    })
  })
}
