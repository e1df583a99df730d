"""openai: sync, async, `connect()`, `parse`."""

import asyncio
import unittest

import openai
from pydantic import BaseModel

from server import CALL, JSON, WORDS, one_at_a_time, says, within

TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
    "strict": True,
}


class Weather(BaseModel):
    city: str
    degrees: int


def client(server, **more) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="unused", max_retries=0, **more)


class Sync(unittest.TestCase):
    def test_three_turns(self):
        with says(WORDS) as server:
            openai_client = client(server)
            previous = None
            for _ in range(3):
                response = openai_client.responses.create(model="scripted", input="hello", previous_response_id=previous)
                self.assertEqual(response.output_text.strip(), WORDS)
                self.assertTrue(response._request_id.startswith("req_"))
                previous = response.id
            items = openai_client.responses.input_items.list(previous, include=["message.output_text.logprobs", "reasoning.encrypted_content"])
            self.assertEqual([item.type for item in items], ["message"])
            counted = openai_client.responses.input_tokens.count(model="scripted", input="one two")
            self.assertEqual(counted.input_tokens, 4)
            compacted = openai_client.responses.compact(model="scripted", previous_response_id=previous)
            again = openai_client.responses.create(model="scripted", input=[item.model_dump() for item in compacted.output] + [{"role": "user", "content": "on"}])
            self.assertEqual(again.status, "completed")

    def test_what_parse_gives_back_is_taken(self):
        with says(JSON) as server:
            openai_client = client(server)
            parsed = openai_client.responses.parse(model="scripted", input="weather?", text_format=Weather)
            self.assertEqual(parsed.output_parsed, Weather(city="Porto", degrees=21))
            again = openai_client.responses.parse(
                model="scripted",
                input=[{"role": "user", "content": "weather?"}, *(item.model_dump() for item in parsed.output), {"role": "user", "content": "again"}],
                text_format=Weather,
            )
            self.assertEqual(again.output_parsed.degrees, 21)
            chat = openai_client.chat.completions.parse(model="scripted", messages=[{"role": "user", "content": "weather?"}], response_format=Weather)
            message = chat.choices[0].message
            self.assertEqual(message.parsed.city, "Porto")
            history = [{"role": "user", "content": "weather?"}, message.model_dump(), {"role": "user", "content": "again"}]
            self.assertTrue(openai_client.chat.completions.create(model="scripted", messages=history).choices[0].message.content)

    def test_a_tool_goes_round(self):
        with says(CALL) as server:
            openai_client = client(server)
            first = openai_client.responses.create(model="scripted", input="weather?", tools=[TOOL, {"type": "web_search"}])
            (call,) = [item for item in first.output if item.type == "function_call"]
            output = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
            second = openai_client.responses.create(model="scripted", input=[*first.output, output], tools=[TOOL], tool_choice="none")
            self.assertEqual(second.status, "completed")
            reference = [{"type": "item_reference", "id": call.id}, output]
            third = openai_client.responses.create(model="scripted", input=reference, tools=[TOOL], tool_choice="none")
            self.assertEqual(third.status, "completed")

    def test_streams(self):
        with says(WORDS) as server:
            openai_client = client(server)
            with openai_client.responses.stream(model="scripted", input="hello") as stream:
                text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
                self.assertEqual(text.strip(), WORDS)
                self.assertEqual(stream.get_final_response().status, "completed")
            chunks = list(
                openai_client.chat.completions.create(
                    model="scripted", messages=[{"role": "user", "content": "hello"}], stream=True, n=2, stream_options={"include_usage": True}
                )
            )
            for index in range(2):
                said = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)
                self.assertEqual(said.strip(), WORDS)
            self.assertIsNotNone(chunks[-1].usage)

    def test_stop_frees_the_engine(self):
        with one_at_a_time() as server:
            openai_client = client(server)
            chat = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}
            for begin in (
                lambda: openai_client.chat.completions.create(**chat),
                lambda: openai_client.responses.create(model="scripted", input="hello", stream=True),
            ):
                stream = begin()
                for _ in range(8):
                    next(stream)
                stream.close()
                with within(3, "the next first token"):
                    follower = openai_client.chat.completions.create(**chat)
                    next(follower)
                follower.close()

    def test_background(self):
        with says(WORDS) as server:
            openai_client = client(server)
            response = openai_client.responses.create(model="scripted", input="hello", background=True)
            self.assertIn(response.status, ("queued", "in_progress", "completed"))
            events = list(openai_client.responses.retrieve(response.id, stream=True, starting_after=1))
            self.assertEqual(events[-1].type, "response.completed")

    def test_errors(self):
        with says(WORDS, "engine.scripted.context_length=64") as server:
            openai_client = client(server)
            with self.assertRaises(openai.NotFoundError):
                openai_client.responses.create(model="nothing", input="x")
            with self.assertRaises(openai.BadRequestError) as refused:
                openai_client.responses.create(model="scripted", input="x", temperature=9)
            self.assertEqual(refused.exception.param, "temperature")
            with self.assertRaises(openai.BadRequestError) as refused:
                openai_client.responses.create(model="scripted", input="word " * 100)
            self.assertEqual(refused.exception.code, "context_length_exceeded")


class Async(unittest.IsolatedAsyncioTestCase):
    async def test_three_turns_over_a_socket(self):
        with says(WORDS) as server:
            openai_client = openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0)
            async with openai_client.responses.connect() as connection:
                previous = None
                for _ in range(3):
                    await connection.response.create(model="scripted", input="hello", previous_response_id=previous)
                    text = ""
                    async for event in connection:
                        if event.type == "response.output_text.delta":
                            text += event.delta
                        if event.type == "response.completed":
                            previous = event.response.id
                            break
                    self.assertEqual(text.strip(), WORDS)
            stream = await openai_client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "x"}], stream=True)
            said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            self.assertEqual("".join(said).strip(), WORDS)

    async def test_tools_and_errors_over_a_socket(self):
        with says(CALL) as server:
            openai_client = openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0)
            async with openai_client.responses.connect() as connection:

                async def last(**fields):
                    await connection.response.create(model="scripted", tools=[TOOL], **fields)
                    async for event in connection:
                        if event.type in ("response.completed", "error"):
                            return event

                first = (await last(input="weather?")).response
                (call,) = [item for item in first.output if item.type == "function_call"]
                output = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
                second = await last(input=[output], previous_response_id=first.id, tool_choice="none")
                self.assertEqual(second.response.status, "completed")
                refused = await last(input="x", temperature=9)
                self.assertEqual((refused.type, refused.error.param), ("error", "temperature"))

    async def test_leaving_a_socket_or_a_stream_frees_the_engine(self):
        with one_at_a_time() as server:
            openai_client = openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0)
            messages = [{"role": "user", "content": "hello"}]
            connection = await openai_client.responses.connect().enter()
            await connection.response.create(model="scripted", input="hello")
            async for event in connection:
                if event.type == "response.output_text.delta":
                    break
            # The client waits for its own reader before it has closed.
            closing = asyncio.create_task(connection.close())
            for _ in range(2):
                with within(4, "the first token, after the one before has left"):
                    stream = await openai_client.chat.completions.create(model="scripted", messages=messages, stream=True)
                    async for _ in stream:
                        break
                await stream.close()
            await closing

    async def test_structured_output_and_errors(self):
        with says(JSON) as server:
            openai_client = openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0)
            parsed = await openai_client.responses.parse(model="scripted", input="weather?", text_format=Weather)
            self.assertEqual(parsed.output_parsed.degrees, 21)
            messages = [{"role": "user", "content": "weather?"}]
            chat = await openai_client.chat.completions.parse(model="scripted", messages=messages, response_format=Weather)
            self.assertEqual(chat.choices[0].message.parsed.city, "Porto")
            with self.assertRaises(openai.NotFoundError):
                await openai_client.responses.create(model="nothing", input="x")


if __name__ == "__main__":
    unittest.main()
