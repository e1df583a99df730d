/**
 * A connection over HTTP and server-sent events, for networks that block WebSockets. It sends and emits the same
 * messages as a socket. Stored responses are created in the background, so that a lost stream does not cancel them.
 */

import { type Connection, type ConnectionListener, type Limits, NO_LIMITS, NO_STATUS, REFUSED } from "./connection.ts";
import { encode, type Message } from "./encode.ts";
import { type ApiError, AuthenticationError, InputError, numberOr } from "./errors.ts";
import { isTerminal } from "./events.ts";
import { type Http, httpError } from "./http.ts";

/** After this long without a byte the network is considered lost: the server writes a comment every 10 s. */
const SILENCE_LIMIT_MS = 25_000;
/** The same limit after a sleep. */
const WOKEN_LIMIT_MS = 12_000;
/**
 * The number of responses that stream at a time. Browsers open six connections to a host over HTTP/1.1, and other requests need
 * some.
 */
const STREAMS = 4;

export class SseConnection implements Connection {
  leaving = false;
  readonly id: string | undefined = undefined;
  readonly limits: Limits = { ...NO_LIMITS, lanes: STREAMS };
  readonly #http: Http;
  readonly #listener: ConnectionListener;
  readonly #abort = new AbortController();
  #phase: "connecting" | "ready" | "ended" = "connecting";
  #heardAt = 0;
  #streams = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(http: Http, listener: ConnectionListener) {
    this.#http = http;
    this.#listener = listener;
    void this.#begin();
  }

  send(text: string): void {
    const { type, stream_id, ...body } = JSON.parse(text) as Message;
    const id = String(body["response_id"]);
    if (type === "response.create") void this.#run(stream_id, () => this.#create(stream_id, body));
    else if (type === "caudal:response.cancel") {
      void this.#http.post(["responses", id, "cancel"]).catch(() => undefined);
    } else if (type === "response.steer") {
      const error = { code: "steering_not_supported", message: "Input to a running response needs a WebSocket." };
      this.#emit({ type: "response.steer.failed", error, stream_id });
    } else if (typeof body["response_id"] === "string") {
      void this.#run(stream_id, () => this.#follow(stream_id, id, body["starting_after"]));
    } else {
      const error = { code: "invalid_request", message: "Following a conversation needs a WebSocket." };
      this.#emit({ type: "error", status: 400, error, stream_id });
    }
  }

  check(): void {
    if (this.#streams > 0 && Date.now() - this.#heardAt > WOKEN_LIMIT_MS) this.abandon("silent");
  }

  close(): void {
    this.#finish(NO_STATUS, "closed by the client");
  }

  abandon(reason: string): void {
    this.#finish(NO_STATUS, reason);
  }

  async #begin(): Promise<void> {
    const said = await this.#http.probe();
    if (this.#phase === "ended") return;
    if (said !== "up") return this.#finish(said instanceof AuthenticationError ? REFUSED : NO_STATUS, "HTTP", said);
    this.#phase = "ready";
    this.#timer = setInterval(() => {
      if (this.#streams > 0 && Date.now() - this.#heardAt > SILENCE_LIMIT_MS) this.abandon("silent");
    }, WOKEN_LIMIT_MS / 4);
    this.#listener.ready(this);
  }

  /**
   * Sends one request and emits a refusal as an error. A network error ends the connection, because it hits every
   * stream.
   */
  async #run(streamId: unknown, work: () => Promise<Response | undefined>): Promise<void> {
    this.#streams++;
    this.#heardAt = Date.now();
    try {
      const refused = await work();
      if (!refused) return;
      const { status, code, message, param, retryAfterMs } = await httpError(refused);
      const error = { code, message, param };
      this.#emit({ type: "error", status, error, retry_after_ms: retryAfterMs, stream_id: streamId });
    } catch (error) {
      if (!(error instanceof InputError)) return this.abandon("the network was lost");
      const { message } = error;
      this.#emit({ type: "error", status: 400, error: { code: "invalid_request", message }, stream_id: streamId });
    } finally {
      this.#streams--;
    }
  }

  async #create(streamId: unknown, body: Message): Promise<Response | undefined> {
    const keeps = body["store"] !== false;
    const text = encode(body, keeps ? { background: true } : { stream: true });
    const answer = await this.#http.ask("POST", ["responses"], { body: text, signal: this.#abort.signal });
    if (!answer.ok) return answer;
    if (!keeps) return this.#read(answer, streamId, undefined, -1);
    const { id } = (await answer.json()) as { id: string };
    return this.#follow(streamId, id, undefined);
  }

  async #follow(streamId: unknown, id: string, after: unknown): Promise<Response | undefined> {
    const query = { stream: "true", starting_after: numberOr(after, undefined) };
    const answer = await this.#http.ask("GET", ["responses", id], { query, signal: this.#abort.signal });
    return answer.ok ? this.#read(answer, streamId, id, numberOr(after, -1)) : answer;
  }

  /** Emits the events of a stream. Throws if the stream ends before its last line. */
  async #read(answer: Response, streamId: unknown, id: string | undefined, after: number): Promise<undefined> {
    let responseId = id;
    let ended = false;
    for await (const data of this.#lines(answer)) {
      if (data === "[DONE]") {
        // The caller had every event already. A socket reports that in its answer to a resume.
        const had = { response_id: responseId, last_sequence_number: after, status: "completed" };
        if (!ended) this.#emit({ ...had, type: "caudal:response.resumed", stream_id: streamId });
        return undefined;
      }
      const event = JSON.parse(data) as Message;
      const { response, status, type } = event;
      if (type === "error" && status === 401 && this.#http.tokens.renews) {
        this.#http.tokens.expire();
        throw new TypeError("network: the token has expired");
      }
      responseId ??= (response as { id?: string } | undefined)?.id;
      ended ||= isTerminal(event) || type === "error";
      this.#emit({ ...event, response_id: responseId, stream_id: streamId });
    }
    throw new TypeError("network: the stream was cut");
  }

  async *#lines(answer: Response): AsyncGenerator<string, void, undefined> {
    const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const chunk = await reader?.read();
      if (!chunk || chunk.done) return;
      this.#heardAt = Date.now();
      const lines = (text + chunk.value).split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
    }
  }

  #emit(message: Message): void {
    if (this.#phase === "ready") this.#listener.message(this, message);
  }

  #finish(code: number, reason: string, error?: ApiError): void {
    if (this.#phase === "ended") return;
    const wasReady = this.#phase === "ready";
    this.#phase = "ended";
    clearInterval(this.#timer);
    this.#abort.abort();
    this.#listener.ended(this, { code, reason, wasReady, error });
  }
}
