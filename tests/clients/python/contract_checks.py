"""The project's own checks for schemathesis."""

import re

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance, response_schema_conformance

# Refusals of requests that a schema cannot tell from valid ones: code, parameter, reason.
EXCEPTIONS = [
    ("upgrade_required", r"upgrade", "the handshake of a WebSocket is no part of OpenAPI"),
    ("previous_response_not_found", r"previous_response_id", "OpenAI answers 400 where other unknown ids are 404"),
    ("context_length_exceeded", r"input|messages", "what fits depends on the model"),
    ("invalid_request", r"after", "it names an item of the list"),
    ("invalid_request", r".*encrypted_content", "only what this server made can be read"),
    ("invalid_request", r".*(call_id|tool_call_id)", "an output needs a call before it"),
    ("invalid_request", r"tool_choice.*", "it names functions of `tools`"),
    ("invalid_request", r"tools\[\d+\].*\.name", "names are different from each other"),
    ("invalid_request", r"(tools\[\d+\].*\.parameters|text\.format|response_format).*", "JSON schemas and grammars have rules of their own"),
    ("invalid_request", r"top_p|repetition_penalty", "a number that 32 bits cannot tell from 0 is 0"),
    ("invalid_request", r"background", "it needs `store`, except on a socket, which has the same schema"),
    ("invalid_request", r"instructions|messages.*|variables", "a stored prompt's `{{names}}` are within its texts"),
]


@schemathesis.check
def valid_data_is_accepted(ctx, response, case):
    """As `positive_data_acceptance`, with exceptions."""
    if response.status_code in (400, 426):
        error = response.json()["error"]
        if any(code == error["code"] and re.fullmatch(param, error["param"] or "") for code, param, _ in EXCEPTIONS):
            return None
    return positive_data_acceptance(ctx, response, case)


@schemathesis.check
def answers_have_their_schemas(ctx, response, case):
    """As `response_schema_conformance`, except for streams: the document describes them as a string, and the golden frames
    check their events."""
    if "text/event-stream" in "".join(response.headers.get("content-type", [])):
        return None
    return response_schema_conformance(ctx, response, case)
