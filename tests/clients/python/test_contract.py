"""schemathesis: tests the server with requests generated from its OpenAPI document."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import jsonschema_rs

from server import Server

# The checks of every answer.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "answers_have_their_schemas",
    "unsupported_method",
    "allow_header_conformance",
]
# The checks that valid requests are accepted and invalid ones refused. The document is not complete yet: CAUDAL_CONTRACT_DATA=1
# runs these checks, too, and shows what is missing.
if os.environ.get("CAUDAL_CONTRACT_DATA"):
    CHECKS += ["negative_data_rejection", "valid_data_is_accepted"]
GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
ADMIN_KEY = "the-key-of-the-operators-of-this-test"


class Contract(unittest.TestCase):
    def test_every_answer_is_documented(self):
        settings = ["engine.scripted.tokens=3", "engine.scripted.tokens_per_second=0", f"auth.admin_key={ADMIN_KEY}"]
        with Server(*settings) as server, tempfile.TemporaryDirectory() as home:
            program = str(pathlib.Path(sys.executable).parent / "st")
            command = [program, "run", f"{server.root}/openapi.json", "--checks", ",".join(CHECKS)]
            command += ["--max-examples", "15", "--max-time", "45", "--seed", "1", "--no-shrink", "--generation-database", "none"]
            command += ["--header", f"Authorization: Bearer {ADMIN_KEY}", "--request-timeout", "10", "--warnings", "off", "--no-color"]
            environment = {**os.environ, "SCHEMATHESIS_HOOKS": "contract_checks", "PYTHONPATH": str(pathlib.Path(__file__).parent)}
            done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout[-20_000:] + done.stderr[-2_000:])

    def test_the_events_of_typical_responses_have_their_schemas(self):
        with Server() as server:
            documents = {}
            for name in ("openapi", "asyncapi"):
                with urllib.request.urlopen(f"{server.root}/{name}.json") as answer:
                    documents[name] = json.load(answer)
        messages = documents["asyncapi"]["channels"]["responses"]["messages"]
        names = {message["name"]: name for name, message in messages.items() if not name.startswith("Client")}
        files = sorted(GOLDEN.glob("*.jsonl"))
        self.assertGreater(len(files), 9)
        for file in files:
            for line in file.read_text().splitlines():
                event = json.loads(line)
                if event == "[DONE]":
                    continue
                document, name = ("openapi", "ChatChunk") if "object" in event else ("asyncapi", names[event["type"]])
                schema = {"$ref": f"#/components/schemas/{name}", "components": documents[document]["components"]}
                jsonschema_rs.validator_for(schema).validate(event)


if __name__ == "__main__":
    unittest.main()
