// Codex CLI: one turn with a tool, over HTTP and over a WebSocket.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { says } from './server.mjs'

const CALL = '<tool_call> {"name": "exec_command", "arguments": {"cmd": "echo done > proof.txt"}} </tool_call>'

for (const [name, sockets] of [['HTTP', false], ['WebSocket', true]]) {
  test(`${name}: a tool is run, and its output is sent`, async (t) => {
    const server = await says(t, CALL, 'engine.scripted.context_length=200000', 'auth.admin_key=admin-key-1')
    const folder = mkdtempSync(join(tmpdir(), 'caudal-codex-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    const settings = {
      model: '"scripted"',
      model_provider: '"caudal"',
      'model_providers.caudal.name': '"caudal"',
      'model_providers.caudal.base_url': `"${server.url}"`,
      'model_providers.caudal.wire_api': '"responses"',
      'model_providers.caudal.env_key': '"CAUDAL_KEY"',
      'model_providers.caudal.supports_websockets': `${sockets}`,
    }
    const options = Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`])
    const codex = spawn(
      join(import.meta.dirname, 'node_modules/.bin/codex'),
      ['exec', '--skip-git-repo-check', '--dangerously-bypass-approvals-and-sandbox', ...options, 'Run the tool.'],
      { cwd: folder, env: { ...process.env, CODEX_HOME: folder, CAUDAL_KEY: 'unused' }, stdio: ['ignore', 'pipe', 'pipe'], detached: true },
    )
    // The real process is a child of Codex's launcher.
    const end = () => {
      try {
        process.kill(-codex.pid, 'SIGKILL')
      } catch {}
    }
    t.after(end)
    let said = ''
    for (const stream of [codex.stdout, codex.stderr]) stream.on('data', (data) => (said += data))
    const ended = new Promise((resolve) => codex.on('close', resolve))
    // The scripted model repeats its call; the second request has the first call's output.
    const metrics = async () => {
      const answer = await fetch(`${server.root}/admin/metrics`, { headers: { authorization: 'Bearer admin-key-1' } })
      const text = await answer.text()
      const count = (name) => Number(text.match(new RegExp(`^caudal_${name}[^\\n]* (\\d+)`, 'm'))?.[1] ?? 0)
      return { completed: count('responses_total{model="scripted",status="completed"}'.replace(/[{}]/g, '\\$&')), connections: count('connections') }
    }
    const deadline = performance.now() + 30_000
    let seen = { completed: 0, connections: 0 }
    while (!existsSync(join(folder, 'proof.txt')) || seen.completed < 2) {
      assert.ok(performance.now() < deadline, `codex did not come so far:\n${said.slice(-3000)}`)
      await setTimeout(50)
      seen = await metrics()
    }
    assert.equal(seen.connections > 0, sockets, 'the transport that was asked for')
    end()
    await ended
  })
}
