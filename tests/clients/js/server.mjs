// Starts servers for tests: the real binary with the scripted engine on a free port.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

export const WORDS = 'A river does not ask who is listening.'
export const CALL = '<tool_call> {"name": "weather", "arguments": {"city": "Porto"}} </tool_call>'
export const JSON_TEXT = '{"city": "Porto", "degrees": 21}'

/** Starts `caudal serve`; `settings` have the form of `--set`. The process ends with the test `t`. */
export async function serve(t, ...settings) {
  const all = ['server.bind=127.0.0.1:0', 'engine.kind=scripted', 'store.kind=memory', 'engine.scripted.tokens_per_second=400', ...settings]
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('CAUDAL__')))
  const child = spawn(process.env.CAUDAL_BIN, ['serve', ...all.flatMap((setting) => ['--set', setting])], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  t.after(() => child.kill('SIGKILL'))
  for await (const line of createInterface({ input: child.stdout })) {
    const root = line.match(/^listening on (http:\/\/\S+)/)?.[1]
    if (!root) throw new Error(`the server said: ${line}`)
    child.stdout.resume()
    return { root, url: `${root}/v1` }
  }
  throw new Error('the server did not start')
}

/** Starts a server whose every answer is `text`. */
export const says = (t, text, ...settings) =>
  serve(t, `engine.scripted.text=${text}`, `engine.scripted.tokens=${text.split(/\s+/).length}`, ...settings)

/** Starts a server that runs one generation at a time, each a minute long. */
export const oneAtATime = (t) =>
  serve(t, 'engine.max_running=1', 'engine.scripted.tokens=6000', 'engine.scripted.tokens_per_second=100')

/** Fails unless `task` ends within `ms`. */
export async function within(ms, task) {
  const begun = performance.now()
  const result = await task
  const took = performance.now() - begun
  if (took > ms) throw new Error(`took ${took} ms of ${ms}`)
  return result
}
