/** Sends input to a running response and waits for the successor that begins with it. Loaded when used. */

import type { Carrier, PendingSteers } from "./deliveries.ts";
import { encode, type Message } from "./encode.ts";
import { fieldsOf, SteerError } from "./errors.ts";
import type { Run } from "./run.ts";
import type { Input, RequiredInput } from "./wire.ts";

/** The outcome of `steer`. */
export type SteerOutcome =
  /** The input is part of the response of this run. */
  | { status: "committed"; run: Run }
  /** The input stays queued until the outputs of these calls are sent with a request that continues the response. */
  | { status: "pending"; requiredInput: readonly RequiredInput[] };

/**
 * Sends the input. Resolves when the server has committed it to a successor or queued it. Throws `SteerError` if the
 * response does not run on this connection.
 */
export function steer(carrier: Carrier | undefined, run: Run, input: Input): Promise<SteerOutcome> {
  if (!carrier || run.ended)
    throw new SteerError("response_not_active", "The response does not run on this connection.");
  const { connection, delivery, streamId } = carrier;
  const to = { type: "response.steer", previous_response_id: run.responseId, stream_id: streamId };
  const text = encode({ input }, to);
  const steers = delivery.steers instanceof Steers ? delivery.steers : new Steers();
  delivery.steers = steers;
  const outcome = steers.wait();
  connection.send(text);
  return outcome;
}

interface Steer {
  resolve(outcome: SteerOutcome): void;
  reject(error: Error): void;
}

/** The inputs to one response that have no outcome yet, in the order in which they were sent. */
class Steers implements PendingSteers {
  #open: Steer[] = [];

  get settled(): boolean {
    return this.#open.length === 0;
  }

  wait(): Promise<SteerOutcome> {
    return new Promise((resolve, reject) => this.#open.push({ resolve, reject }));
  }

  /** Handles `response.steer.pending` and `.failed`; `.accepted` is not an outcome. */
  receive(message: Message): void {
    if (message["type"] === "response.steer.accepted") return;
    const steer = this.#open.shift();
    if (message["type"] === "response.steer.pending") {
      const { required_input } = message;
      steer?.resolve({ status: "pending", requiredInput: Array.isArray(required_input) ? required_input : [] });
      return;
    }
    const error = fieldsOf(message["error"]);
    steer?.reject(new SteerError(String(error["code"] ?? "unknown"), String(error["message"] ?? "Not steered.")));
  }

  commit(run: Run): void {
    for (const steer of this.#open.splice(0)) steer.resolve({ status: "committed", run });
  }

  lost(): void {
    const error = new SteerError("connection_lost", "The connection was lost before the server committed the input.");
    for (const steer of this.#open.splice(0)) steer.reject(error);
  }
}
