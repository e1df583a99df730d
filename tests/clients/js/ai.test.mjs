// AI SDK: @ai-sdk/openai with its defaults and with `.chat`, and @ai-sdk/open-responses.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createOpenResponses } from '@ai-sdk/open-responses'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, Output, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'
import { CALL, JSON_TEXT, oneAtATime, says, WORDS, within } from './server.mjs'

const openai = (server) => createOpenAI({ baseURL: server.url, apiKey: 'unused' })
const PROVIDERS = {
  responses: (server) => openai(server)('scripted'),
  chat: (server) => openai(server).chat('scripted'),
  'open responses': (server) =>
    createOpenResponses({ url: `${server.url}/responses`, name: 'caudal', apiKey: 'unused' })('scripted'),
}

for (const [name, model] of Object.entries(PROVIDERS)) {
  test(`${name}: three turns and a stream`, async (t) => {
    const server = await says(t, WORDS)
    const messages = [{ role: 'user', content: 'hello' }]
    for (let turn = 0; turn < 3; turn++) {
      const result = await generateText({ model: model(server), messages, maxRetries: 0 })
      assert.equal(result.text.trim(), WORDS)
      messages.push(...result.response.messages, { role: 'user', content: 'go on' })
    }
    const streamed = streamText({ model: model(server), messages, maxRetries: 0 })
    let text = ''
    for await (const piece of streamed.textStream) text += piece
    assert.equal(text.trim(), WORDS)
  })

  test(`${name}: a tool goes round`, async (t) => {
    const server = await says(t, CALL)
    const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `sun in ${city}` })
    const result = await generateText({
      model: model(server),
      prompt: 'weather?',
      tools: { weather },
      stopWhen: stepCountIs(2),
      maxRetries: 0,
    })
    assert.equal(result.steps.length, 2)
    assert.equal(result.steps[0].toolResults[0].output, 'sun in Porto')
  })

  test(`${name}: structured output`, async (t) => {
    const server = await says(t, JSON_TEXT)
    const schema = z.object({ city: z.string(), degrees: z.number() })
    const result = await generateText({ model: model(server), prompt: 'weather?', output: Output.object({ schema }), maxRetries: 0 })
    assert.deepEqual(result.output, { city: 'Porto', degrees: 21 })
  })

  test(`${name}: stop frees the engine, an error is told`, async (t) => {
    const server = await oneAtATime(t)
    const stop = new AbortController()
    const streamed = streamText({ model: model(server), prompt: 'hello', abortSignal: stop.signal, maxRetries: 0, onError() {} })
    let seen = 0
    for await (const _ of streamed.textStream) if (++seen === 3) break
    stop.abort()
    const next = new AbortController()
    const following = streamText({ model: model(server), prompt: 'hello', abortSignal: next.signal, maxRetries: 0, onError() {} })
    await within(3000, following.textStream[Symbol.asyncIterator]().next())
    next.abort()
    await assert.rejects(generateText({ model: model(server), prompt: 'x', temperature: 9, maxRetries: 0 }), /temperature/)
  })
}
