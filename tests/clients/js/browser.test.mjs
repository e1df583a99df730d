// openai in a page of another origin, in Chromium; and a WebSocket that offers only its key.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join, normalize } from 'node:path'
import test from 'node:test'
import { chromium } from 'playwright-core'
import { says, WORDS } from './server.mjs'

/** Serves a page and openai's own modules. */
async function page(t) {
  const modules = join(import.meta.dirname, 'node_modules/openai')
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url, 'http://page').pathname)
    try {
      const body = path === '/' ? '<!doctype html><title>a page</title>' : await readFile(join(modules, path))
      response.writeHead(200, { 'content-type': path === '/' ? 'text/html' : 'text/javascript' }).end(body)
    } catch {
      response.writeHead(404).end()
    }
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  return `http://127.0.0.1:${server.address().port}`
}

test('a page of an allowed origin creates, streams, reads headers and opens a socket', async (t) => {
  const origin = await page(t)
  const key = 'alpha-key-1'
  const keys = `auth.keys=[{key="${key}", tenant="alpha"}]`
  const server = await says(t, WORDS, `server.allowed_origins=["${origin}"]`, 'auth.mode=keys', keys)
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] })
  t.after(() => browser.close())
  const tab = await browser.newPage()
  await tab.goto(origin)
  const seen = await tab.evaluate(
    async ({ url, key }) => {
      const { default: OpenAI } = await import('/index.mjs')
      const openai = new OpenAI({ baseURL: url, apiKey: key, dangerouslyAllowBrowser: true, maxRetries: 0 })
      const { data, request_id } = await openai.responses.create({ model: 'scripted', input: 'hello' }).withResponse()
      let streamed = ''
      const messages = [{ role: 'user', content: 'hello' }]
      for await (const chunk of await openai.chat.completions.create({ model: 'scripted', messages, stream: true })) {
        streamed += chunk.choices[0]?.delta?.content ?? ''
      }
      const socket = new WebSocket(`${url.replace('http', 'ws')}/responses`, [`openai-insecure-api-key.${key}`])
      const first = await new Promise((resolve, reject) => {
        socket.onopen = () => socket.send(JSON.stringify({ type: 'response.create', model: 'scripted', input: 'hello' }))
        socket.onmessage = (message) => resolve(JSON.parse(message.data).type)
        socket.onclose = (event) => reject(new Error(`closed with ${event.code}`))
      })
      return { text: data.output_text, request_id, streamed, first }
    },
    { url: server.url, key },
  )
  assert.equal(seen.text.trim(), WORDS)
  assert.equal(seen.streamed.trim(), WORDS)
  assert.match(seen.request_id, /^req_/)
  assert.equal(seen.first, 'response.created')
})
