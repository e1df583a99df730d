// @openai/agents over HTTP and WebSocket, also with a model called gpt-5.
import assert from 'node:assert/strict'
import test from 'node:test'
import { Agent, MaxTurnsExceededError, OpenAIProvider, Runner, setTracingDisabled, tool, webSearchTool } from '@openai/agents'
import OpenAI from 'openai'
import { z } from 'zod'
import { CALL, JSON_TEXT, oneAtATime, says, within, WORDS } from './server.mjs'

setTracingDisabled(true)

const runner = (server, more = {}) => {
  const openAIClient = new OpenAI({ baseURL: server.url, apiKey: 'unused', maxRetries: 0 })
  return new Runner({ modelProvider: new OpenAIProvider({ openAIClient, useResponses: true, ...more }) })
}

for (const [name, more] of [['HTTP', {}], ['WebSocket', { useResponsesWebSocket: true }]]) {
  test(`${name}: three turns and a stream`, async (t) => {
    const run = runner(await says(t, WORDS), more)
    const agent = new Agent({ name: 'a', instructions: 'Be brief.', model: 'scripted' })
    let input = 'hello'
    for (let turn = 0; turn < 3; turn++) {
      const result = await run.run(agent, input)
      assert.equal(result.finalOutput.trim(), WORDS)
      input = [...result.history, { role: 'user', content: 'go on' }]
    }
    const streamed = await run.run(agent, 'hello', { stream: true })
    for await (const _ of streamed);
    assert.equal(streamed.finalOutput.trim(), WORDS)
  })

  test(`${name}: a tool is called, structured output`, async (t) => {
    const weather = tool({
      name: 'weather',
      description: 'The weather in a city.',
      parameters: z.object({ city: z.string() }),
      execute: async ({ city }) => `sun in ${city}`,
    })
    const calls = new Agent({ name: 'a', model: 'scripted', tools: [weather, webSearchTool()], toolUseBehavior: 'stop_on_first_tool' })
    const calling = await says(t, CALL)
    assert.equal((await runner(calling, more).run(calls, 'weather?')).finalOutput, 'sun in Porto')
    // The model calls again after each result, which was sent back.
    const rounds = new Agent({ name: 'a', model: 'scripted', tools: [weather] })
    await assert.rejects(runner(calling, more).run(rounds, 'weather?', { maxTurns: 2 }), MaxTurnsExceededError)
    const outputType = z.object({ city: z.string(), degrees: z.number() })
    // For this name the SDK sends its own defaults: a verbosity and an effort, which are only hints here.
    const structured = new Agent({ name: 'a', model: 'gpt-5', outputType })
    const server = await says(t, JSON_TEXT, 'engine.scripted.aliases=["gpt-5"]')
    const result = await runner(server, more).run(structured, 'weather?')
    assert.deepEqual(result.finalOutput, { city: 'Porto', degrees: 21 })
  })

  test(`${name}: stop frees the engine`, async (t) => {
    const run = runner(await oneAtATime(t), more)
    const agent = new Agent({ name: 'a', model: 'scripted' })
    const begin = async () => {
      const stop = new AbortController()
      const streamed = await run.run(agent, 'hello', { stream: true, signal: stop.signal })
      streamed.completed.catch(() => {})
      for await (const event of streamed) {
        if (event.type === 'raw_model_stream_event' && event.data.type === 'output_text_delta') break
      }
      return stop
    }
    const first = await begin()
    first.abort()
    const second = await within(3000, begin())
    second.abort()
  })

  test(`${name}: an unknown model is an error`, async (t) => {
    const run = runner(await says(t, WORDS), more)
    await assert.rejects(run.run(new Agent({ name: 'a', model: 'nothing' }), 'hello'))
  })
}
