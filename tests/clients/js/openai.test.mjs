// openai: HTTP, SSE and `ResponsesWS`.
import assert from 'node:assert/strict'
import test from 'node:test'
import OpenAI from 'openai'
import { ResponsesWS } from 'openai/resources/responses/ws'
import { CALL, JSON_TEXT, oneAtATime, says, WORDS, within } from './server.mjs'

const client = (server) => new OpenAI({ baseURL: server.url, apiKey: 'unused', maxRetries: 0 })
const tool = {
  type: 'function',
  name: 'weather',
  parameters: { type: 'object', properties: { city: { type: 'string' } } },
  strict: false,
}

test('three turns, lists, tokens, compaction', async (t) => {
  const openai = client(await says(t, WORDS))
  let previous = null
  for (let turn = 0; turn < 3; turn++) {
    const response = await openai.responses.create({ model: 'scripted', input: 'hello', previous_response_id: previous })
    assert.equal(response.output_text.trim(), WORDS)
    assert.match(response._request_id, /^req_/)
    previous = response.id
  }
  const include = ['message.output_text.logprobs', 'reasoning.encrypted_content']
  const items = await openai.responses.inputItems.list(previous, { include })
  assert.equal(items.data.length, 1)
  assert.equal((await openai.responses.inputTokens.count({ model: 'scripted', input: 'one two' })).input_tokens, 4)
  const compacted = await openai.responses.compact({ model: 'scripted', previous_response_id: previous })
  const input = [...compacted.output, { role: 'user', content: 'go on' }]
  assert.equal((await openai.responses.create({ model: 'scripted', input })).status, 'completed')
})

test('streams of both APIs', async (t) => {
  const openai = client(await says(t, WORDS))
  let text = ''
  for await (const event of await openai.responses.create({ model: 'scripted', input: 'hello', stream: true })) {
    if (event.type === 'response.output_text.delta') text += event.delta
  }
  assert.equal(text.trim(), WORDS)
  const messages = [{ role: 'user', content: 'hello' }]
  const stream = openai.chat.completions.stream({ model: 'scripted', messages, stream_options: { include_usage: true } })
  assert.equal((await stream.finalContent()).trim(), WORDS)
  assert.ok((await stream.totalUsage()).total_tokens > 0)
})

test('a tool goes round, structured output', async (t) => {
  const openai = client(await says(t, CALL))
  const first = await openai.responses.create({ model: 'scripted', input: 'weather?', tools: [tool, { type: 'web_search' }] })
  const call = first.output.find((item) => item.type === 'function_call')
  const output = { type: 'function_call_output', call_id: call.call_id, output: '21' }
  for (const input of [[...first.output, output], [{ type: 'item_reference', id: call.id }, output]]) {
    const second = await openai.responses.create({ model: 'scripted', input, tools: [tool], tool_choice: 'none' })
    assert.equal(second.status, 'completed')
  }
  const structured = client(await says(t, JSON_TEXT))
  const schema = { type: 'object', properties: { city: { type: 'string' }, degrees: { type: 'integer' } } }
  const format = { type: 'json_schema', name: 'weather', schema, strict: false }
  const parsed = await structured.responses.parse({ model: 'scripted', input: 'weather?', text: { format } })
  assert.equal(parsed.output_parsed.city, 'Porto')
  const again = [{ role: 'user', content: 'weather?' }, ...parsed.output, { role: 'user', content: 'again' }]
  assert.equal((await structured.responses.create({ model: 'scripted', input: again })).status, 'completed')
})

test('stop frees the engine', async (t) => {
  const openai = client(await oneAtATime(t))
  const messages = [{ role: 'user', content: 'hello' }]
  const begin = [
    () => openai.chat.completions.create({ model: 'scripted', messages, stream: true }),
    () => openai.responses.create({ model: 'scripted', input: 'hello', stream: true }),
  ]
  for (const start of begin) {
    const stream = await start()
    let seen = 0
    for await (const _ of stream) if (++seen === 8) break
    const next = await openai.chat.completions.create({ model: 'scripted', messages, stream: true })
    await within(3000, next[Symbol.asyncIterator]().next())
    next.controller.abort()
  }
})

test('errors', async (t) => {
  const openai = client(await says(t, WORDS))
  await assert.rejects(openai.responses.create({ model: 'nothing', input: 'x' }), OpenAI.NotFoundError)
  await assert.rejects(openai.responses.create({ model: 'scripted', input: 'x', temperature: 9 }), (error) => {
    assert.equal(error.param, 'temperature')
    return error instanceof OpenAI.BadRequestError
  })
})

/** Connects. Returns the socket, and `next(type)`, which resolves to the next event of a type. */
function connect(openai) {
  const socket = new ResponsesWS(openai)
  const events = []
  let wake = () => {}
  const arrived = (event) => {
    events.push(event)
    wake()
  }
  socket.on('event', arrived)
  // An error is an event, too; without a listener the SDK throws it.
  socket.on('error', () => {})
  const next = async (type) => {
    for (;;) {
      const at = events.findIndex((event) => event.type === type)
      if (at >= 0) return events.splice(0, at + 1).at(-1)
      await new Promise((resolve) => {
        wake = resolve
      })
    }
  }
  return { socket, next }
}

test('a socket: three turns, steering', async (t) => {
  const openai = client(await says(t, WORDS.repeat(50), 'engine.scripted.tokens_per_second=100'))
  const { socket, next } = connect(openai)
  let previous = null
  for (let turn = 0; turn < 3; turn++) {
    socket.send({ type: 'response.create', model: 'scripted', input: 'hello', previous_response_id: previous, max_output_tokens: 3 })
    previous = (await next('response.incomplete')).response.id
  }
  socket.send({ type: 'response.create', model: 'scripted', input: 'hello' })
  const { response } = await next('response.created')
  await next('response.output_text.delta')
  socket.send({ type: 'response.steer', previous_response_id: response.id, input: 'faster' })
  assert.equal((await next('response.steer.accepted')).steer.previous_response_id, response.id)
  assert.equal((await next('response.incomplete')).response.incomplete_details.reason, 'steered')
  assert.equal((await next('response.created')).response.previous_response_id, response.id)
  socket.close()
})

test('a socket: a tool goes round, an error', async (t) => {
  const { socket, next } = connect(client(await says(t, CALL)))
  socket.send({ type: 'response.create', model: 'scripted', input: 'weather?', tools: [tool] })
  const { response } = await next('response.completed')
  const call = response.output.find((item) => item.type === 'function_call')
  const input = [{ type: 'function_call_output', call_id: call.call_id, output: '21' }]
  socket.send({ type: 'response.create', model: 'scripted', input, previous_response_id: response.id, tools: [tool], tool_choice: 'none' })
  assert.equal((await next('response.completed')).response.previous_response_id, response.id)
  socket.send({ type: 'response.create', model: 'scripted', input: 'x', temperature: 9 })
  assert.equal((await next('error')).error.param, 'temperature')
  socket.close()
})

test('a socket: leaving frees the engine', async (t) => {
  const openai = client(await oneAtATime(t))
  const begin = async () => {
    const { socket, next } = connect(openai)
    socket.send({ type: 'response.create', model: 'scripted', input: 'hello' })
    await next('response.output_text.delta')
    return socket
  }
  const first = await begin()
  first.close()
  const second = await within(3000, begin())
  second.close()
})
