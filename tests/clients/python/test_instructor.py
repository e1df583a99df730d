"""instructor, which has an openai of its own."""

import unittest

import instructor
import openai
from pydantic import BaseModel

from server import JSON, WORDS, says

CALL = '<tool_call> {"name": "Weather", "arguments": {"city": "Porto", "degrees": 21}} </tool_call>'


class Weather(BaseModel):
    city: str
    degrees: int


class Instructor(unittest.TestCase):
    def ask(self, server, mode):
        client = instructor.from_openai(openai.OpenAI(base_url=server.url, api_key="unused", max_retries=0), mode=mode)
        messages = [{"role": "user", "content": "weather?"}]
        return client.chat.completions.create(model="scripted", messages=messages, response_model=Weather, max_retries=1)

    def test_every_mode_gives_an_object(self):
        with says(JSON) as server:
            for mode in (instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
                self.assertEqual(self.ask(server, mode).degrees, 21, mode)
        with says(CALL) as server:
            self.assertEqual(self.ask(server, instructor.Mode.TOOLS).degrees, 21)

    def test_what_is_no_object_is_an_error(self):
        with says(WORDS) as server, self.assertRaises(Exception):
            self.ask(server, instructor.Mode.JSON)


if __name__ == "__main__":
    unittest.main()
