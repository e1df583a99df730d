"""llm, the command line client, with its extra-openai-models.yaml."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from server import CALL, JSON, WORDS, one_at_a_time, says, within

LLM = str(pathlib.Path(sys.executable).parent / "llm")
MODELS = """
- model_id: caudal
  model_name: scripted
  api_base: {url}
  supports_tools: true
  supports_schema: true
- model_id: caudal-responses
  model_name: scripted
  api_base: {url}
  responses: true
  supports_tools: true
  supports_schema: true
- model_id: nothing
  model_name: nothing
  api_base: {url}
"""
# Over chat completions, and over the Responses API.
MODEL_IDS = ("caudal", "caudal-responses")
WEATHER = "def weather(city: str) -> str:\n    'The weather in a city.'\n    return f'sun in {city}'\n"


class LLMClient(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.TemporaryDirectory()
        self.addCleanup(self.home.cleanup)

    def command(self, server, *arguments):
        pathlib.Path(self.home.name, "extra-openai-models.yaml").write_text(MODELS.format(url=server.url))
        environment = {**os.environ, "LLM_USER_PATH": self.home.name, "OPENAI_API_KEY": "unused"}
        return [LLM, *arguments], {"env": environment, "stdin": subprocess.DEVNULL, "text": True}

    def ask(self, server, *arguments, status=0):
        command, options = self.command(server, *arguments)
        done = subprocess.run(command, capture_output=True, timeout=60, **options)
        self.assertEqual(done.returncode, status, done.stderr)
        return (done.stdout if status == 0 else done.stderr).strip()

    def test_three_turns(self):
        with says(WORDS) as server:
            for model in MODEL_IDS:
                self.assertEqual(self.ask(server, "-m", model, "hello"), WORDS)
                self.assertEqual(self.ask(server, "-c", "go on"), WORDS)
                self.assertEqual(self.ask(server, "-c", "--no-stream", "go on"), WORDS)

    def test_a_tool_goes_round(self):
        with says(CALL) as server:
            for model in MODEL_IDS:
                # The model calls again after each result.
                arguments = ["--functions", WEATHER, "--tools-debug", "--chain-limit", "2", "weather?"]
                log = self.ask(server, "-m", model, *arguments, status=1)
                self.assertIn("sun in Porto", log)
                self.assertIn("Chain limit", log)

    def test_structured_output(self):
        with says(JSON) as server:
            for model in MODEL_IDS:
                self.assertEqual(self.ask(server, "-m", model, "--schema", "city, degrees int", "weather?"), JSON)

    def test_an_error_is_told(self):
        with says(WORDS) as server:
            self.assertIn("does not exist", self.ask(server, "-m", "nothing", "hello", status=1))

    def test_stop_frees_the_engine(self):
        with one_at_a_time() as server:
            for model in (*MODEL_IDS, "caudal"):
                command, options = self.command(server, "-m", model, "hello")
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1, **options) as running:
                    # The first word of the next request comes only when the previous one has left.
                    with within(20, "the first word"):
                        self.assertTrue(running.stdout.read(1))
                    running.send_signal(signal.SIGINT)
                    running.stdout.read()


if __name__ == "__main__":
    unittest.main()
