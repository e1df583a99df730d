/** Turns the output of the engine in the browser into the events that the server would send. */

import { newId } from "../ids.ts";
import type { Logprob, OutputItem, ResponseCreateParams, ResponseObject, Usage } from "../index.ts";
import type { Run } from "../run.ts";
import { samplingOf } from "./request.ts";
import type { Manifest } from "./weights.ts";

type Kind = "message" | "reasoning" | "function_call";
interface Open {
  kind: Kind;
  id: string;
  text: string;
  logprobs: Logprob[];
  call: { call_id: string; name: string };
}

export interface WrittenResponse {
  id: string;
  params: ResponseCreateParams;
  createdAt: number;
  /** The response of the server that this one continues. */
  continues: string | undefined;
  droppedTurns: number;
}

export class EventWriter {
  readonly #run: Run;
  readonly #output: OutputItem[] = [];
  #response: ResponseObject;
  #sequence = 0;
  #open: Open | undefined;

  constructor(run: Run, written: WrittenResponse, { model }: Manifest) {
    this.#run = run;
    this.#response = responseOf(written, model);
    this.#emit("response.created", { response: this.#response });
    this.#emit("response.in_progress", { response: this.#response });
  }

  text(delta: string, logprobs: readonly Logprob[] = []): void {
    const item = this.#item("message");
    item.text += delta;
    item.logprobs.push(...logprobs);
    this.#emit("response.output_text.delta", { ...this.#at(item), content_index: 0, delta, logprobs });
  }

  reasoning(delta: string): void {
    const item = this.#item("reasoning");
    item.text += delta;
    this.#emit("response.reasoning_summary_text.delta", { ...this.#at(item), summary_index: 0, delta });
  }

  /** Begins a call if there is a name, else continues the open one. */
  call(call_id: string | undefined, name: string | undefined, delta: string): void {
    if (name) this.#close("completed");
    const item = this.#item("function_call", { call_id: call_id || newId("call"), name: name ?? "" });
    item.text += delta;
    if (delta !== "") this.#emit("response.function_call_arguments.delta", { ...this.#at(item), delta });
  }

  /** Ends the response. With `reason` it is incomplete. */
  end(usage: Usage | null, reason?: "max_output_tokens" | "cancelled"): ResponseObject {
    this.#close(reason ? "incomplete" : "completed");
    return this.#end(reason ? "incomplete" : "completed", { usage, incomplete_details: reason ? { reason } : null });
  }

  fail(message: string): ResponseObject {
    this.#close("incomplete");
    return this.#end("failed", { error: { code: "engine_failed", message } });
  }

  #end(status: "completed" | "incomplete" | "failed", more: Partial<ResponseObject>): ResponseObject {
    const completed_at = status === "completed" ? Math.floor(Date.now() / 1000) : null;
    this.#response = { ...this.#response, status, completed_at, output: this.#output, ...more };
    this.#emit(`response.${status}`, { response: this.#response });
    return this.#response;
  }

  #item(kind: Kind, call = { call_id: "", name: "" }): Open {
    if (this.#open?.kind === kind) return this.#open;
    this.#close("completed");
    const id = newId({ message: "msg", reasoning: "rs", function_call: "fc" }[kind]);
    const item: Open = { kind, id, text: "", logprobs: [], call };
    this.#open = item;
    this.#emit("response.output_item.added", {
      output_index: this.#output.length,
      item: itemOf(item, "in_progress", false),
    });
    const part = partOf(item);
    if (kind === "message") this.#emit("response.content_part.added", { ...this.#at(item), content_index: 0, part });
    if (kind === "reasoning")
      this.#emit("response.reasoning_summary_part.added", { ...this.#at(item), summary_index: 0, part });
    return item;
  }

  #close(status: "completed" | "incomplete"): void {
    const item = this.#open;
    if (!item) return;
    this.#open = undefined;
    const { text, logprobs } = item;
    const at = { ...this.#at(item) };
    const part = partOf(item);
    if (item.kind === "message") {
      this.#emit("response.output_text.done", { ...at, content_index: 0, text, logprobs });
      this.#emit("response.content_part.done", { ...at, content_index: 0, part });
    } else if (item.kind === "reasoning") {
      this.#emit("response.reasoning_summary_text.done", { ...at, summary_index: 0, text });
      this.#emit("response.reasoning_summary_part.done", { ...at, summary_index: 0, part });
    } else {
      this.#emit("response.function_call_arguments.done", { ...at, arguments: text });
    }
    const done = itemOf(item, status, true);
    this.#emit("response.output_item.done", { output_index: this.#output.length, item: done });
    this.#output.push(done);
  }

  #at({ id }: Open): { item_id: string; output_index: number } {
    return { item_id: id, output_index: this.#output.length };
  }

  #emit(type: string, fields: object): void {
    const { id } = this.#response;
    this.#run.receive({ type, sequence_number: this.#sequence++, response_id: id, ...structuredClone(fields) });
  }
}

function partOf({ kind, text, logprobs }: Open): object {
  return kind === "reasoning"
    ? { type: "summary_text", text }
    : { type: "output_text", text, annotations: [], logprobs: [...logprobs] };
}

function itemOf(item: Open, status: "in_progress" | "completed" | "incomplete", hasPart: boolean): OutputItem {
  const { id, kind, text, call } = item;
  const parts = hasPart ? [partOf(item)] : [];
  if (kind === "function_call") return { type: kind, id, status, ...call, arguments: text };
  const fields = kind === "message" ? { role: "assistant", content: parts } : { summary: parts };
  return { type: kind, id, status, ...fields } as OutputItem;
}

/** Builds a response with all fields that a response of the server has. */
function responseOf(
  { id, params, createdAt, continues, droppedTurns }: WrittenResponse,
  model: Manifest["model"],
): ResponseObject {
  const { temperature, top_p, presence_penalty, frequency_penalty } = samplingOf(params, model);
  const conversation = typeof params.conversation === "string" ? { id: params.conversation } : params.conversation;
  const notes = { ...params.metadata, where: "browser", ...(continues !== undefined && { continued_from: continues }) };
  return {
    ...{ id, object: "response", created_at: Math.floor(createdAt / 1000), completed_at: null, status: "in_progress" },
    ...{ incomplete_details: null, model: model.id, previous_response_id: null, conversation: conversation ?? null },
    ...{ prompt: null, instructions: params.instructions ?? null, output: [], error: null, usage: null },
    tools: (params.tools ?? []).map((tool) => ({ description: null, parameters: null, strict: null, ...tool })),
    ...{ tool_choice: params.tool_choice ?? "auto", truncation: params.truncation ?? "disabled" },
    ...(droppedTurns > 0 && { truncation_details: { dropped_turns: droppedTurns } }),
    ...{ parallel_tool_calls: params.parallel_tool_calls ?? true, text: { format: { type: "text" }, ...params.text } },
    ...{ temperature, top_p, presence_penalty, frequency_penalty, top_logprobs: params.top_logprobs ?? 0 },
    ...{ reasoning: { effort: null, summary: null }, max_output_tokens: params.max_output_tokens ?? null },
    ...{ max_tool_calls: null, store: false, background: false, service_tier: "default", metadata: notes },
    ...{ safety_identifier: null, prompt_cache_key: null, user: params.user ?? null },
  } as unknown as ResponseObject;
}
