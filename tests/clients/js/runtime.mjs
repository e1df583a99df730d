// A chat with the SDK on standard APIs only; the same file runs on Node.js, Deno and Bun. Arguments: the SDK's file, the
// server.
const [sdk, url] = (globalThis.Deno?.args ?? process.argv.slice(2))
const { CaudalClient, CaudalError } = await import(sdk)

const client = new CaudalClient({ url })
const facts = {}

const answer = client.responses.create({ input: 'hello' })
let text = ''
for await (const piece of answer.text()) text += piece
facts.text = text.trim()
const { id, status } = await answer.final()
facts.status = status

let events = 0
for await (const _ of client.responses.resume(id, { startingAfter: 4 })) events++
facts.resumed = events > 0 && events === answer.lastSequenceNumber - 4

const conversation = await client.conversations.create()
for (const input of ['one', 'two']) await client.responses.create({ input, conversation: conversation.id }).final()
let items = 0
for await (const _ of client.conversations.items.all(conversation.id)) items++
facts.items = items

const cancelled = client.responses.create({ input: 'stop', max_output_tokens: 8 })
await cancelled.cancel()
const ended = await cancelled.final()
facts.cancelled = ended.status === 'cancelled' || ended.incomplete_details?.reason === 'cancelled'

facts.refused = await client.responses.create({ input: 'x', temperature: 9 }).final().then(
  () => 'nothing',
  (error) => error instanceof CaudalError && error.param,
)
client.close()
console.log(JSON.stringify(facts))
