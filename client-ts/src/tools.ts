/** Runs tools: executes the calls of a response and sends the results back, until a response has no calls. */

import type { CaudalClient } from "./client.ts";
import { CaudalError, DetachedError, InputError, isRecord, TooManyTurnsError } from "./errors.ts";
import { EventLog } from "./event-log.ts";
import type { ResponseEvent } from "./events.ts";
import type { ResponseHandle } from "./handle.ts";
import type { FunctionCall, FunctionCallOutput } from "./items.ts";
import type { FollowOptions } from "./responses.ts";
import { checked, jsonSchemaOf, type StandardJsonSchema } from "./schema.ts";
import type { FunctionTool, ResponseCreateParams, ResponseObject } from "./types.ts";

export interface ToolCall {
  readonly callId: string;
  readonly name: string;
  /** Aborted when the run is cancelled or no longer followed. */
  readonly signal: AbortSignal;
}

/** A function that the model may call. */
export interface Tool<Args extends object = object> {
  description?: string;
  /** A JSON Schema of the arguments, or a schema of zod, valibot or arktype, which also checks them. */
  parameters?: Record<string, unknown> | StandardJsonSchema<Args>;
  strict?: boolean;
  /**
   * Checks the arguments and returns them typed, or throws; the `parse` of a schema library fits. Without `parse` and
   * without a schema, `execute` receives any JSON object that the model wrote.
   */
  parse?: (args: unknown) => Args;
  /**
   * Executes a call. The model receives the returned value, a string as it is and anything else as JSON, or the message
   * of a thrown error.
   */
  execute: (args: Args, call: ToolCall) => unknown;
}

/**
 * A tool with any arguments. `parse` and `execute` are methods, so that a tool may declare narrower parameter types.
 */
interface AnyTool extends Omit<Tool, "parse" | "execute" | "parameters"> {
  parameters?: Record<string, unknown> | StandardJsonSchema;
  parse?(args: unknown): object;
  execute(args: object, call: ToolCall): unknown;
}

export interface RunToolsParams extends Omit<ResponseCreateParams, "tools"> {
  /** The functions by name. */
  tools: Readonly<Record<string, AnyTool>>;
  /** The number of responses that are created at most. Default 10. */
  maxTurns?: number;
}

export interface RunToolsOptions extends FollowOptions {
  /**
   * Continues from the response with this id instead of creating a first one. After a page reload, pass the id of the
   * last of `answers()`. Functions whose results had not been sent yet run again.
   */
  resume?: string;
}

/**
 * Creates a response, executes its calls side by side and sends the results back, until a response has no calls.
 * Returns at once; the run reports errors. A `tool_choice` that forces a call holds for the first turn only.
 */
export function runTools(client: CaudalClient, params: RunToolsParams, options: RunToolsOptions = {}): ToolRun {
  return new ToolRun(client, params, options);
}

/** The responses of one `runTools`. Can be read several times, each time from the start. */
export class ToolRun implements AsyncIterable<ResponseEvent> {
  readonly #client: CaudalClient;
  readonly #params: Omit<ResponseCreateParams, "tools">;
  readonly #tools: RunToolsParams["tools"];
  readonly #maxTurns: number;
  readonly #options: RunToolsOptions;
  readonly #answers = new EventLog<ResponseHandle>();
  readonly #abort = new AbortController();
  #current: ResponseHandle | undefined;
  #final: ResponseObject | undefined;

  /** @internal */
  constructor(client: CaudalClient, params: RunToolsParams, options: RunToolsOptions) {
    const { tools, maxTurns = 10, ...rest } = params;
    this.#client = client;
    this.#params = rest;
    this.#tools = tools;
    this.#maxTurns = maxTurns;
    this.#options = options;
    void this.#run();
  }

  /** Yields the handle of each response when it is created. */
  answers(): AsyncGenerator<ResponseHandle, void, undefined> {
    return this.#answers.follow();
  }

  /** Yields the events of all responses, one response after the other; `response_id` tells them apart. */
  async *[Symbol.asyncIterator](): AsyncGenerator<ResponseEvent, void, undefined> {
    for await (const answer of this.answers()) yield* answer.events();
  }

  /** Yields the output text of all responses as it comes. */
  async *text(): AsyncGenerator<string, void, undefined> {
    for await (const answer of this.answers()) yield* answer.text();
  }

  /**
   * Resolves to the last response: one without calls, or one that ended early. Rejects with `TooManyTurnsError` if
   * response number `maxTurns` still has calls.
   */
  async final(): Promise<ResponseObject> {
    await this.#answers.whenEnded();
    // The log ended without an error, so there is a last response.
    return this.#final as ResponseObject;
  }

  /** Cancels the running response, aborts the functions' signal and creates no further response. */
  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.#current?.cancel();
  }

  async #run(): Promise<void> {
    const { signal, cancelSignal } = this.#options;
    const abort = (): void => this.#abort.abort();
    for (const source of [signal, cancelSignal]) {
      if (source?.aborted) abort();
      source?.addEventListener("abort", abort, { once: true });
    }
    try {
      this.#final = await this.#turns();
      this.#answers.end();
    } catch (error) {
      const isOurs = error instanceof CaudalError;
      this.#answers.end(isOurs ? error : new InputError("The tools cannot be read.", { cause: error }));
    } finally {
      for (const source of [signal, cancelSignal]) source?.removeEventListener("abort", abort);
    }
  }

  async #turns(): Promise<ResponseObject> {
    const { resume } = this.#options;
    const tools = Object.entries(this.#tools).map(([name, tool]) => described(name, tool));
    let answer =
      resume === undefined
        ? this.#client.responses.create({ ...this.#params, tools }, this.#options)
        : this.#client.responses.resume(resume, this.#options);
    for (let turn = 1; ; turn++) {
      this.#current = answer;
      this.#answers.append(answer);
      const response = await answer.final();
      const calls = response.output.filter((item) => item.type === "function_call");
      if (calls.length === 0 || response.status !== "completed") return response;
      if (turn >= this.#maxTurns) throw new TooManyTurnsError(this.#maxTurns, response);
      const input = await this.#execute(calls);
      if (this.#options.signal?.aborted) throw new DetachedError("The caller stopped following.");
      if (this.#abort.signal.aborted) return response;
      answer = this.#client.responses.create({ ...this.#next(response), tools, input }, this.#options);
    }
  }

  /**
   * Builds the next request. The request id is derived from the last response, so a request sent before and after a
   * reload runs once.
   */
  #next({ id }: ResponseObject): ResponseCreateParams {
    const { tool_choice, conversation, ...rest } = this.#params;
    return {
      ...rest,
      ...(conversation == null ? { previous_response_id: id } : { conversation }),
      ...(tool_choice === "none" ? { tool_choice } : {}),
      client_request_id: `tools_${id}`,
    };
  }

  /** Executes the calls. Returns at once if the run is aborted, even while a function ignores its signal. */
  async #execute(calls: readonly FunctionCall[]): Promise<FunctionCallOutput[]> {
    const { signal } = this.#abort;
    let onAbort: (() => void) | undefined;
    const aborted = new Promise<FunctionCallOutput[]>((resolve) => {
      onAbort = () => resolve([]);
      if (signal.aborted) onAbort();
      signal.addEventListener("abort", onAbort);
    });
    try {
      return await Promise.race([aborted, Promise.all(calls.map((call) => this.#output(call)))]);
    } finally {
      if (onAbort) signal.removeEventListener("abort", onAbort);
    }
  }

  async #output({ call_id, name, arguments: json }: FunctionCall): Promise<FunctionCallOutput> {
    return { type: "function_call_output", call_id, output: await this.#result(call_id, name, json) };
  }

  /**
   * Executes one call. Returns an error as JSON, so that the model can correct its mistake or report what went wrong.
   */
  async #result(callId: string, name: string, json: string): Promise<string> {
    const tool = Object.hasOwn(this.#tools, name) ? this.#tools[name] : undefined;
    try {
      if (!tool) throw new Error(`There is no function ${name}.`);
      const args = objectOf(json);
      const check = tool.parse?.bind(tool) ?? (isStandard(tool.parameters) ? tool.parameters : undefined);
      const given = check ? ((await checked<unknown>(check, args)) as object) : args;
      const result = await tool.execute(given, { callId, name, signal: this.#abort.signal });
      return typeof result === "string" ? result : (JSON.stringify(result) ?? "null");
    } catch (error) {
      return JSON.stringify({ error: error instanceof Error ? error.message : String(error) });
    }
  }
}

function described(name: string, { description, parameters, strict }: AnyTool): FunctionTool {
  return {
    type: "function",
    name,
    parameters: isStandard(parameters) ? jsonSchemaOf(parameters) : (parameters ?? { type: "object", properties: {} }),
    ...(description === undefined ? {} : { description }),
    ...(strict === undefined ? {} : { strict }),
  };
}

function isStandard(parameters: AnyTool["parameters"]): parameters is StandardJsonSchema {
  return parameters !== undefined && "~standard" in parameters;
}

function objectOf(json: string): object {
  try {
    const value: unknown = JSON.parse(json === "" ? "{}" : json);
    if (isRecord(value)) return value;
  } catch {
    // The error is thrown below.
  }
  throw new Error("The arguments are not a JSON object.");
}
