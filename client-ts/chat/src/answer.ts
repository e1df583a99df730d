import { outputText, type ResponseEvent, type ResponseObject } from "caudal-client";
import type { Call, Thinking, Turn } from "./turn.ts";

export type Content = Pick<Turn, "answer" | "thinking" | "calls">;

/** Builds the content of an answer from its events, which `take` receives in order from the first on. */
export class Answer {
  #answer = "";
  #thoughts = "";
  #thinkingSince: number | undefined;
  #thinkingMs: number | undefined;
  readonly #calls = new Map<number, Call>();
  readonly #timed: boolean;

  /** `timed`: measure how long the model thinks. Of no use for a replay, which comes faster than it was generated. */
  constructor(timed: boolean) {
    this.#timed = timed;
  }

  /** Applies an event. Returns whether it has changed the answer's content. */
  take(event: ResponseEvent): boolean {
    switch (event.type) {
      case "response.output_text.delta":
        this.#answer += event.delta;
        return true;
      case "response.reasoning_summary_part.added":
        this.#thinkingSince ??= Date.now();
        if (this.#thoughts !== "") this.#thoughts += "\n\n";
        return true;
      case "response.reasoning_summary_text.delta":
        this.#thoughts += event.delta;
        return true;
      case "response.function_call_arguments.delta": {
        const call = this.#calls.get(event.output_index);
        if (call) this.#calls.set(event.output_index, { ...call, arguments: call.arguments + event.delta });
        return call !== undefined;
      }
      case "response.output_item.added":
      case "response.output_item.done": {
        const done = event.type === "response.output_item.done";
        if (event.item.type === "function_call") this.#calls.set(event.output_index, callOf(event.item, done));
        if (event.item.type === "reasoning" && done && this.#thinkingSince !== undefined) {
          this.#thinkingMs = Date.now() - this.#thinkingSince;
        }
        return event.item.type !== "message";
      }
      default:
        return false;
    }
  }

  get content(): Content {
    return {
      answer: this.#answer,
      thinking: this.#thinking(this.#thinkingMs !== undefined),
      calls: [...this.#calls.values()],
    };
  }

  /** Returns the content of the ended response, with the thinking time that was measured. */
  finished(response: ResponseObject): Content {
    return { ...contentOf(response), thinking: this.#thinking(true) ?? contentOf(response).thinking };
  }

  #thinking(over: boolean): Thinking | undefined {
    if (this.#thinkingSince === undefined) return undefined;
    const ms = this.#timed && this.#thinkingMs !== undefined ? { ms: this.#thinkingMs } : {};
    return { text: this.#thoughts, over, ...ms };
  }
}

export function contentOf(response: Pick<ResponseObject, "output">): Content {
  const thoughts = response.output.flatMap((item) => (item.type === "reasoning" ? item.summary : []));
  return {
    answer: outputText(response),
    thinking: thoughts.length === 0 ? undefined : { text: thoughts.map(({ text }) => text).join("\n\n"), over: true },
    calls: response.output.flatMap((item) => (item.type === "function_call" ? [callOf(item, true)] : [])),
  };
}

function callOf(item: { call_id: string; name: string; arguments: string }, done: boolean): Call {
  return { id: item.call_id, name: item.name, arguments: item.arguments, done };
}
