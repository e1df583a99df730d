"""instructor, with its own version of openai."""

import unittest

import instructor
import openai
from pydantic import BaseModel

from server import JSON, WORDS, one_at_a_time, says, within

CALL = '<tool_call> {"name": "Weather", "arguments": {"city": "Porto", "degrees": 21}} </tool_call>'


class Weather(BaseModel):
    city: str
    degrees: int


class Instructor(unittest.TestCase):
    def client(self, server, mode=instructor.Mode.JSON):
        return instructor.from_openai(openai.OpenAI(base_url=server.url, api_key="unused", max_retries=0), mode=mode)

    def ask(self, server, mode):
        client = self.client(server, mode)
        messages = [{"role": "user", "content": "weather?"}]
        return client.chat.completions.create(model="scripted", messages=messages, response_model=Weather, max_retries=1)

    def test_every_mode_gives_an_object(self):
        with says(JSON) as server:
            for mode in (instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
                self.assertEqual(self.ask(server, mode).degrees, 21, mode)
        with says(CALL) as server:
            self.assertEqual(self.ask(server, instructor.Mode.TOOLS).degrees, 21)

    def test_three_turns_and_a_stream(self):
        with says(JSON) as server:
            client, messages = self.client(server), [{"role": "user", "content": "weather?"}]
            for _ in range(3):
                weather, raw = client.chat.completions.create_with_completion(
                    model="scripted", messages=messages, response_model=Weather, max_retries=1
                )
                self.assertEqual(weather.degrees, 21)
                messages = [*messages, raw.choices[0].message.model_dump(), {"role": "user", "content": "again"}]
            parts = list(client.chat.completions.create_partial(model="scripted", messages=messages, response_model=Weather))
            self.assertEqual((parts[-1].city, parts[-1].degrees), ("Porto", 21))

    def test_stop_frees_the_engine(self):
        with one_at_a_time() as server:
            chat = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "response_model": None, "stream": True}
            for _ in range(2):
                with within(4, "the first token, after the stream before was left"):
                    stream = self.client(server).chat.completions.create(**chat)
                    next(stream), next(stream)
                stream.close()

    def test_an_unknown_model_is_an_error(self):
        with says(JSON) as server, self.assertRaisesRegex(Exception, "does not exist"):
            messages = [{"role": "user", "content": "x"}]
            self.client(server).chat.completions.create(model="nothing", messages=messages, response_model=Weather, max_retries=1)

    def test_what_is_no_object_is_an_error(self):
        with says(WORDS) as server, self.assertRaises(Exception):
            self.ask(server, instructor.Mode.JSON)


if __name__ == "__main__":
    unittest.main()
