"""openai-agents, langchain-openai, LiteLLM, pydantic-ai."""

import asyncio
import os
import unittest

from pydantic import BaseModel

from server import CALL, JSON, WORDS, one_at_a_time, says, within

os.environ.setdefault("OPENAI_API_KEY", "unused")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


class Weather(BaseModel):
    city: str
    degrees: int


class Agents(unittest.IsolatedAsyncioTestCase):
    """openai-agents, with a model of the server and with one called gpt-5."""

    def model(self, server, name="scripted"):
        import openai
        from agents import OpenAIResponsesModel, set_tracing_disabled

        set_tracing_disabled(True)
        return OpenAIResponsesModel(model=name, openai_client=openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0))

    async def test_three_turns_and_a_stream(self):
        from agents import Agent, Runner

        with says(WORDS) as server:
            agent = Agent(name="a", instructions="Be brief.", model=self.model(server))
            history = "hello"
            for _ in range(3):
                result = await Runner.run(agent, history)
                self.assertEqual(result.final_output.strip(), WORDS)
                history = [*result.to_input_list(), {"role": "user", "content": "go on"}]
            streamed = Runner.run_streamed(agent, "hello")
            kinds = [event.type async for event in streamed.stream_events()]
            self.assertIn("raw_response_event", kinds)
            self.assertEqual(streamed.final_output.strip(), WORDS)

    async def test_a_tool_goes_round(self):
        from agents import Agent, MaxTurnsExceeded, Runner, function_tool

        @function_tool
        def weather(city: str) -> str:
            return f"sun in {city}"

        with says(CALL) as server:
            agent = Agent(name="a", model=self.model(server), tools=[weather], tool_use_behavior="stop_on_first_tool")
            self.assertEqual((await Runner.run(agent, "weather?")).final_output, "sun in Porto")
            # The model calls again after each result.
            agent = Agent(name="a", model=self.model(server), tools=[weather])
            with self.assertRaises(MaxTurnsExceeded) as ended:
                await Runner.run(agent, "weather?", max_turns=2)
            outputs = [item.output for item in ended.exception.run_data.new_items if item.type == "tool_call_output_item"]
            self.assertEqual(outputs, ["sun in Porto"] * 2)

    async def test_structured_output_and_a_model_called_gpt_5(self):
        from agents import Agent, Runner, WebSearchTool

        # The agent's defaults for gpt-5 are a verbosity and an effort.
        with says(JSON, 'engine.scripted.aliases=["gpt-5"]') as server:
            agent = Agent(name="a", model=self.model(server, "gpt-5"), output_type=Weather, tools=[WebSearchTool()])
            self.assertEqual((await Runner.run(agent, "weather?")).final_output.degrees, 21)

    async def test_an_error_is_the_sdks(self):
        import openai
        from agents import Agent, Runner

        with says(WORDS) as server:
            with self.assertRaises(openai.NotFoundError):
                await Runner.run(Agent(name="a", model=self.model(server, "nothing")), "hello")

    async def test_stop_frees_the_engine(self):
        import openai
        from agents import Agent, Runner

        with one_at_a_time() as server:
            model = self.model(server)
            streamed = Runner.run_streamed(Agent(name="a", model=model), "hello")
            async for event in streamed.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    break
            streamed.cancel()
            # Over a WebSocket a cancelled run leaves the model's socket open.
            leaving = asyncio.create_task(model.close())
            other = openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0)
            with within(4, "the next first token"):
                stream = await other.responses.create(model="scripted", input="hello", stream=True)
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        break
            await stream.close()
            leaving.cancel()


class AgentsOverWebSocket(Agents):
    """openai-agents over one WebSocket for each model."""

    def model(self, server, name="scripted"):
        import openai
        from agents import set_tracing_disabled
        from agents.models.openai_responses import OpenAIResponsesWSModel

        set_tracing_disabled(True)
        client = openai.AsyncOpenAI(base_url=server.url, api_key="unused", max_retries=0)
        return OpenAIResponsesWSModel(model=name, openai_client=client)

    async def test_an_error_is_the_sdks(self):
        from agents import Agent, Runner

        with says(WORDS) as server:
            with self.assertRaisesRegex(Exception, "does not exist"):
                await Runner.run(Agent(name="a", model=self.model(server, "nothing")), "hello")


class LangChain(unittest.TestCase):
    def models(self, server):
        from langchain_openai import ChatOpenAI

        for responses in (False, True):
            yield ChatOpenAI(model="scripted", base_url=server.url, api_key="unused", max_retries=0, use_responses_api=responses)

    @staticmethod
    def text(message):
        return message.text if isinstance(message.text, str) else message.text()

    def test_three_turns_and_a_stream(self):
        with says(WORDS) as server:
            for model in self.models(server):
                history = [("user", "hello")]
                for _ in range(3):
                    answer = model.invoke(history)
                    self.assertEqual(self.text(answer).strip(), WORDS)
                    history += [answer, ("user", "go on")]
                said = "".join(self.text(chunk) for chunk in model.stream("hello"))
                self.assertEqual(said.strip(), WORDS)

    def test_a_tool_goes_round_and_structured_output(self):
        from langchain_core.messages import ToolMessage
        from langchain_core.tools import tool

        @tool
        def weather(city: str) -> str:
            """The weather in a city."""
            return f"sun in {city}"

        with says(CALL) as server:
            for model in self.models(server):
                call = model.bind_tools([weather]).invoke("weather?")
                self.assertEqual(call.tool_calls[0]["args"], {"city": "Porto"})
                output = ToolMessage(weather.invoke(call.tool_calls[0]["args"]), tool_call_id=call.tool_calls[0]["id"])
                self.assertTrue(model.invoke([("user", "weather?"), call, output]).content)
        with says(JSON) as server:
            for model in self.models(server):
                self.assertEqual(model.with_structured_output(Weather, method="json_schema").invoke("weather?").degrees, 21)

    def test_an_overflow_is_known_as_one(self):
        from langchain_core.exceptions import ContextOverflowError

        with says(WORDS, "engine.scripted.context_length=64") as server:
            for model in self.models(server):
                with self.assertRaises(ContextOverflowError):
                    model.invoke("word " * 100)

    def test_stop_frees_the_engine(self):
        with one_at_a_time() as server:
            for model in self.models(server):
                stream = model.stream("hello")
                next(stream), next(stream)
                stream.close()
                with within(3, "the next first token"):
                    following = model.stream("hello")
                    next(following)
                following.close()


class LiteLLM(unittest.TestCase):
    def complete(self, server, **more):
        import litellm

        asked = {"messages": [{"role": "user", "content": "hello"}], **more}
        return litellm.completion(model="openai/scripted", api_base=server.url, api_key="unused", num_retries=0, **asked)

    def test_three_turns_and_a_stream(self):
        with says(WORDS) as server:
            messages = [{"role": "user", "content": "hello"}]
            for _ in range(3):
                answer = self.complete(server, messages=messages)
                self.assertEqual(answer.choices[0].message.content.strip(), WORDS)
                messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "go on"}]
            said = "".join(chunk.choices[0].delta.content or "" for chunk in self.complete(server, stream=True))
            self.assertEqual(said.strip(), WORDS)

    def test_a_tool_goes_round_and_structured_output(self):
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
        tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
        with says(CALL) as server:
            called = self.complete(server, tools=tools).choices[0].message
            (call,) = called.tool_calls
            self.assertEqual(call.function.name, "weather")
            output = {"role": "tool", "tool_call_id": call.id, "content": "sun in Porto"}
            messages = [{"role": "user", "content": "weather?"}, called.model_dump(), output]
            self.assertTrue(self.complete(server, messages=messages, tools=tools).choices[0].message.tool_calls)
        with says(JSON) as server:
            content = self.complete(server, response_format=Weather).choices[0].message.content
            self.assertEqual(Weather.model_validate_json(content).degrees, 21)

    def test_stop_frees_the_engine(self):
        with one_at_a_time() as server:
            stream = self.complete(server, stream=True)
            next(stream), next(stream)
            # The wrapper has no stop; closing the SDK's stream is the only way.
            stream.completion_stream.close()
            with within(3, "the next first token"):
                following = self.complete(server, stream=True)
                next(following), next(following)
            following.completion_stream.close()

    def test_an_overflow_is_known_as_one(self):
        import litellm

        with says(WORDS, "engine.scripted.context_length=64") as server:
            with self.assertRaises(litellm.ContextWindowExceededError):
                self.complete(server, messages=[{"role": "user", "content": "word " * 100}])


class PydanticAI(unittest.IsolatedAsyncioTestCase):
    def models(self, server):
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        provider = OpenAIProvider(base_url=server.url, api_key="unused")
        return [OpenAIChatModel("scripted", provider=provider), OpenAIResponsesModel("scripted", provider=provider)]

    async def test_three_turns_and_a_stream(self):
        from pydantic_ai import Agent

        with says(WORDS) as server:
            for model in self.models(server):
                agent, history = Agent(model, instructions="Be brief."), []
                for _ in range(3):
                    result = await agent.run("hello", message_history=history)
                    self.assertEqual(result.output.strip(), WORDS)
                    history = result.all_messages()
                async with agent.run_stream("hello") as stream:
                    self.assertEqual((await stream.get_output()).strip(), WORDS)

    async def test_structured_output(self):
        from pydantic_ai import Agent, NativeOutput

        with says(JSON) as server:
            for model in self.models(server):
                result = await Agent(model, output_type=NativeOutput(Weather)).run("weather?")
                self.assertEqual(result.output, Weather(city="Porto", degrees=21))
        with says('<tool_call> {"name": "final_result", "arguments": {"city": "Porto", "degrees": 21}} </tool_call>') as server:
            for model in self.models(server):
                result = await Agent(model, output_type=Weather).run("weather?")
                self.assertEqual(result.output, Weather(city="Porto", degrees=21), "by a tool's call")

    async def test_a_tool_goes_round(self):
        from pydantic_ai import Agent, UsageLimitExceeded, UsageLimits

        with says(CALL) as server:
            for model in self.models(server):
                agent, called = Agent(model), []

                @agent.tool_plain
                def weather(city: str) -> str:
                    called.append(city)
                    return f"sun in {city}"

                # The model calls again after each result.
                with self.assertRaises(UsageLimitExceeded):
                    await agent.run("weather?", usage_limits=UsageLimits(request_limit=2))
                self.assertEqual(called, ["Porto"] * 2)

    async def test_stop_frees_the_engine(self):
        from pydantic_ai import Agent

        with one_at_a_time() as server:
            for model in [*self.models(server), self.models(server)[0]]:
                with within(4, "the first words, after the stream before was left"):
                    async with Agent(model).run_stream("hello") as stream:
                        async for _ in stream.stream_text(debounce_by=None):
                            break

    async def test_an_error_is_the_frameworks(self):
        from pydantic_ai import Agent, ModelHTTPError, ModelSettings

        with says(WORDS) as server:
            for model in self.models(server):
                with self.assertRaises(ModelHTTPError) as refused:
                    await Agent(model).run("hello", model_settings=ModelSettings(temperature=9))
                self.assertEqual(refused.exception.status_code, 400)


if __name__ == "__main__":
    unittest.main()
