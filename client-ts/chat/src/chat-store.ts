import {
  AuthenticationError,
  CancelledError,
  CaudalClient,
  type ConnectionState,
  InvalidRequestError,
  type Model,
  NotFoundError,
  type ResponseCreateParams,
  type ResponseHandle,
  type ResponseObject,
  ResumeExpiredError,
} from "caudal-client";
import { type Content, contentOf, Draft } from "./draft.ts";
import { problemOf } from "./problems.ts";
import { loadModel, loadToken, loadTurns, onSavedElsewhere, saveModel, saveToken, saveTurns } from "./storage.ts";
import { hasAnswer, historyOf, isRunning, newKey, type Turn, type TurnStatus } from "./turn.ts";

export interface ChatState {
  readonly turns: readonly Turn[];
  readonly connection: ConnectionState;
  readonly models: readonly Model[];
  /** The one to ask, by its id. */
  readonly model: string | undefined;
  /** The server wants a token, or another one. */
  readonly needsToken: boolean;
}

/**
 * For models that come without a word on it: small ones lose the thread at the API's default of 1, and this still gives
 * another answer when one is asked for.
 */
const SAMPLING = { temperature: 0.4, top_p: 0.9 };

/** The conversation: what has been said, what is being said, and the connection it is said over. No React. */
export class ChatStore {
  #state: ChatState = {
    turns: loadTurns(),
    connection: { status: "idle" },
    models: [],
    model: undefined,
    needsToken: false,
  };
  readonly #listeners = new Set<() => void>();
  readonly #server: URL;
  #client: CaudalClient;
  #handle: ResponseHandle | undefined;

  constructor(server: URL) {
    this.#server = server;
    this.#client = this.#newClient();
    this.#start();
    onSavedElsewhere(() => {
      if (this.#handle) return;
      this.#set({ turns: loadTurns() });
      this.#followRunning();
    });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): ChatState => this.#state;

  send(prompt: string): void {
    if (isRunning(this.#state.turns.at(-1))) return;
    const previous = this.#state.turns.findLast(hasAnswer);
    this.#ask(this.#state.turns, prompt, previous?.responseId ?? null);
  }

  /** Asks the last question again: another answer, or a first one after a failure. */
  regenerate(): void {
    const last = this.#state.turns.at(-1);
    if (!last || isRunning(last)) return;
    this.#ask(this.#state.turns.slice(0, -1), last.prompt, last.previousResponseId);
  }

  stop(): void {
    const last = this.#state.turns.at(-1);
    if (!this.#handle || !last || !isRunning(last)) return;
    this.#update(last.key, { stopping: true });
    void this.#handle.cancel();
  }

  newChat(): void {
    void this.#handle?.cancel();
    this.#handle = undefined;
    this.#set({ turns: [] });
    this.#save();
  }

  chooseModel(id: string): void {
    saveModel(id);
    this.#set({ model: id });
  }

  reconnect(): void {
    this.#client.connect();
  }

  authorize(token: string): void {
    saveToken(token);
    this.#client.close();
    this.#handle = undefined;
    this.#client = this.#newClient();
    this.#start();
    const last = this.#state.turns.at(-1);
    if (last?.status === "failed") this.regenerate();
  }

  #newClient(): CaudalClient {
    const token = loadToken();
    return new CaudalClient({
      url: this.#server,
      ...(token === undefined ? {} : { token }),
      // A reader can wait or leave; the page need not decide for them.
      reconnect: { giveUpAfterMs: Number.POSITIVE_INFINITY, maxDelayMs: 8_000 },
      maxRetries: 8,
    });
  }

  #start(): void {
    const client = this.#client;
    this.#set({ needsToken: false, connection: client.connectionState });
    client.onConnectionStateChange((connection) => {
      if (client !== this.#client) return;
      const refused = connection.status === "failed" && connection.error instanceof AuthenticationError;
      this.#set({ connection, ...(refused ? { needsToken: true } : {}) });
      if (connection.status === "connected") void this.#learnModels(client);
    });
    client.connect();
    this.#followRunning();
  }

  async #learnModels(client: CaudalClient): Promise<void> {
    // Without a name the page is only less informative.
    const models = await client.models.list().catch(() => this.#state.models);
    const wanted = this.#state.model ?? loadModel();
    this.#set({ models, model: (models.find(({ id }) => id === wanted) ?? models[0])?.id });
  }

  #ask(before: readonly Turn[], prompt: string, previousResponseId: string | null): void {
    const turn: Turn = {
      key: newKey(),
      prompt,
      previousResponseId,
      status: "waiting",
      answer: "",
      askedAt: Date.now(),
    };
    this.#set({ turns: [...before, turn] });
    this.#save();
    void this.#follow(turn, this.#create(turn), "asked");
  }

  #create(turn: Turn): ResponseHandle {
    const { prompt, previousResponseId, key } = turn;
    return this.#request(key, { input: prompt, previous_response_id: previousResponseId, client_request_id: key });
  }

  #request(key: string, params: ResponseCreateParams): ResponseHandle {
    const { models, model } = this.#state;
    const isTuned = models.find(({ id }) => id === model)?.sampling?.temperature != null;
    return this.#client.responses.create(
      { ...(isTuned ? {} : SAMPLING), ...(models.length > 1 && model !== undefined ? { model } : {}), ...params },
      {
        onQueued: (queue) => this.#update(key, { queue }),
        onRetry: ({ retryAt }) => this.#update(key, { retryAt }),
      },
    );
  }

  /** After a reload: the answer that was under way goes on, from its first word. */
  #followRunning(): void {
    const last = this.#state.turns.at(-1);
    if (!last || !isRunning(last)) return;
    const handle = last.responseId === undefined ? this.#create(last) : this.#client.responses.resume(last.responseId);
    void this.#follow(last, handle, "restored");
  }

  /** A restored answer comes as fast as it can be replayed, so it is not timed. */
  async #follow({ key, responseId }: Turn, handle: ResponseHandle, origin: "asked" | "restored"): Promise<void> {
    this.#handle = handle;
    const timed = origin === "asked";
    const draft = new Draft(timed);
    let deltas = 0;
    let firstAt = 0;
    let scheduled = false;
    const flush = (): void => {
      if (!scheduled) return;
      scheduled = false;
      const now = Date.now();
      const rate = deltas > 2 && now > firstAt ? ((deltas - 1) * 1000) / (now - firstAt) : undefined;
      this.#update(key, { ...draft.content, status: "streaming", ...(rate && timed ? { tokensPerSecond: rate } : {}) });
    };
    try {
      for await (const event of handle) {
        if (event.type === "response.created") {
          this.#update(key, { responseId: event.response_id, retryAt: undefined });
          if (responseId !== event.response_id) this.#save();
        }
        if (!draft.take(event)) continue;
        deltas++;
        if (firstAt === 0) {
          firstAt = Date.now();
          if (timed) this.#update(key, { firstTokenAt: firstAt });
        }
        // The words of one frame are shown together; a hidden page draws no frames.
        if (scheduled) continue;
        scheduled = true;
        if (document.hidden) setTimeout(flush, 100);
        else requestAnimationFrame(flush);
      }
      flush();
      const response = await handle.final();
      this.#finish(key, response, draft.finished(response), timed ? Date.now() - firstAt : undefined);
    } catch (error) {
      flush();
      await this.#recover(key, error);
    }
    if (this.#handle === handle) this.#handle = undefined;
    this.#save();
  }

  #finish(key: string, response: ResponseObject, content: Content, streamedMs: number | undefined): void {
    const tokens = response.usage?.output_tokens;
    const timed = tokens !== undefined && tokens > 1 && streamedMs !== undefined && streamedMs > 0;
    this.#update(key, {
      ...content,
      status: statusOf(response),
      responseId: response.id,
      stopping: false,
      ...(tokens === undefined ? {} : { tokens }),
      ...(timed ? { tokensPerSecond: ((tokens - 1) * 1000) / streamedMs } : {}),
    });
  }

  /** What can be mended without the reader is; the rest is told. */
  async #recover(key: string, error: unknown): Promise<void> {
    const index = this.#state.turns.findIndex((turn) => turn.key === key);
    const turn = this.#state.turns[index];
    if (!turn) return;
    if (error instanceof InvalidRequestError && error.code === "previous_response_not_found") {
      // The server forgot the conversation; the page did not.
      const history = historyOf(this.#state.turns.slice(0, index));
      const input = [...history, { role: "user" as const, content: turn.prompt }];
      const handle = this.#request(key, { input, client_request_id: `${key}_whole` });
      return this.#follow(turn, handle, "asked");
    }
    if ((error instanceof ResumeExpiredError || error instanceof NotFoundError) && turn.responseId !== undefined) {
      const stored = await this.#client.responses.retrieve(turn.responseId).catch(() => undefined);
      if (stored && stored.status !== "in_progress") return this.#finish(key, stored, contentOf(stored), undefined);
    }
    // Stopped before the server had taken the request.
    if (error instanceof CancelledError)
      return this.#update(key, { status: "stopped", stopping: false, retryAt: undefined });
    if (error instanceof AuthenticationError) this.#set({ needsToken: true });
    this.#update(key, { status: "failed", problem: problemOf(error), stopping: false, retryAt: undefined });
  }

  #update(key: string, change: Partial<Turn>): void {
    this.#set({ turns: this.#state.turns.map((turn) => (turn.key === key ? { ...turn, ...change } : turn)) });
  }

  #save(): void {
    saveTurns(this.#state.turns);
  }

  #set(change: Partial<ChatState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }
}

function statusOf(response: ResponseObject): TurnStatus {
  if (response.status === "completed") return "done";
  return response.incomplete_details?.reason === "cancelled" ? "stopped" : "cut";
}
