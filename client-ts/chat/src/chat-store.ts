import {
  AuthenticationError,
  CancelledError,
  CaudalClient,
  type ConnectionState,
  type ConversationItem,
  type Model,
  NotFoundError,
  type ResponseHandle,
  ResumeExpiredError,
} from "caudal-client";
import { contentOf } from "./draft.ts";
import { finished, followAnswer } from "./follow.ts";
import { persist } from "./persist.ts";
import { problemOf } from "./problems.ts";
import { loadChat, loadModel, loadToken, saveChat, saveModel, saveToken } from "./storage.ts";
import { itemsOf, merged, turnsOf } from "./transcript.ts";
import { isRunning, newKey, type Turn } from "./turn.ts";

export interface ChatState {
  readonly turns: readonly Turn[];
  readonly connection: ConnectionState;
  readonly models: readonly Model[];
  /** The one to ask, by its id. */
  readonly model: string | undefined;
  /** The server wants a token, or another one. */
  readonly needsToken: boolean;
  /** It has refused the one it got. */
  readonly tokenRefused: boolean;
  /** The address names a conversation that the server does not have. */
  readonly isGone: boolean;
}

/**
 * For models that come without a word on it: small ones lose the thread at the API's default of 1, and this still gives
 * another answer when one is asked for.
 */
const SAMPLING = { temperature: 0.4, top_p: 0.9 };

/** Items that one request may bring. */
const ITEMS_AT_ONCE = 20;

/**
 * The conversation: what has been said, what is being said by whomever, and the connection it is said over. The server has
 * it; the page shows it, and asks. No React.
 */
export class ChatStore {
  #state: ChatState;
  #conversation: string | undefined;
  readonly #listeners = new Set<() => void>();
  readonly #server: URL;
  #client: CaudalClient;
  /** What is being followed, by the key of its turn. */
  readonly #handles = new Map<string, ResponseHandle>();
  /** Leaves the conversation. */
  #leave = new AbortController();

  constructor(server: URL) {
    const { conversation, turns } = loadChat();
    this.#server = server;
    this.#conversation = conversation;
    this.#state = {
      turns,
      connection: { status: "idle" },
      models: [],
      model: undefined,
      needsToken: false,
      tokenRefused: false,
      isGone: false,
    };
    this.#client = this.#newClient();
    this.#start();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): ChatState => this.#state;

  send(prompt: string): void {
    if (!isRunning(this.#state.turns.at(-1))) this.#ask(this.#state.turns, prompt);
  }

  /** Asks the last question again: another answer, or a first one after a failure. */
  regenerate(): void {
    const last = this.#state.turns.at(-1);
    if (!last || isRunning(last)) return;
    this.#ask(this.#state.turns.slice(0, -1), last.prompt, { again: true });
  }

  stop(): void {
    const last = this.#state.turns.at(-1);
    if (!last || !isRunning(last)) return;
    this.#update(last.key, { stopping: true });
    void this.#handles.get(last.key)?.cancel();
  }

  newChat(): void {
    const last = this.#state.turns.at(-1);
    if (last) void this.#handles.get(last.key)?.cancel();
    this.#leave.abort();
    this.#handles.clear();
    this.#conversation = undefined;
    this.#set({ turns: [], isGone: false });
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
    this.#set({ tokenRefused: false });
    this.#client.close();
    this.#handles.clear();
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
    this.#set({ connection: client.connectionState });
    client.onConnectionStateChange((connection) => {
      if (client !== this.#client) return;
      const refused = connection.status === "failed" && connection.error instanceof AuthenticationError;
      this.#set({ connection });
      if (refused) this.#askForToken();
      if (connection.status !== "connected") return;
      this.#set({ needsToken: false, tokenRefused: false });
      void this.#learnModels(client);
      void this.#refresh().then(() => this.#followUnanswered());
    });
    client.connect();
    const last = this.#state.turns.at(-1);
    if (last && isRunning(last)) {
      if (last.responseId === undefined && last.askedAt !== undefined) void this.#run(last, "restored");
      if (last.responseId !== undefined) void this.#follow(last, client.responses.resume(last.responseId), "restored");
    }
    if (this.#conversation !== undefined) void this.#join(this.#conversation);
  }

  #askForToken(): void {
    this.#set({ needsToken: true, tokenRefused: loadToken() !== undefined });
  }

  async #learnModels(client: CaudalClient): Promise<void> {
    // Without a name the page is only less informative.
    const models = await client.models.list().catch(() => this.#state.models);
    const wanted = this.#state.model ?? loadModel();
    this.#set({ models, model: (models.find(({ id }) => id === wanted) ?? models[0])?.id });
  }

  #ask(before: readonly Turn[], prompt: string, { again = false } = {}): void {
    const turn: Turn = { key: newKey(), prompt, status: "waiting", answer: "", askedAt: Date.now() };
    this.#set({ turns: [...before, turn], isGone: false });
    this.#save();
    void this.#run(turn, again ? "again" : "asked");
  }

  /** Gets an answer to what was asked here. */
  async #run(turn: Turn, origin: "asked" | "again" | "restored"): Promise<void> {
    const { key, prompt } = turn;
    try {
      await persist(
        () => this.#prepare(key, origin === "again"),
        () => this.#state.turns.some((turn) => turn.key === key && !turn.stopping),
        (retryAt) => this.#update(key, { retryAt }),
      );
    } catch (error) {
      return this.#fail(key, error);
    }
    const { models, model } = this.#state;
    const isTuned = models.find(({ id }) => id === model)?.sampling?.temperature != null;
    const handle = this.#client.responses.create(
      {
        ...(isTuned ? {} : SAMPLING),
        ...(models.length > 1 && model !== undefined ? { model } : {}),
        conversation: this.#conversation ?? null,
        input: prompt,
        client_request_id: key,
      },
      {
        onQueued: (queue) => this.#update(key, { queue }),
        onRetry: ({ retryAt }) => this.#update(key, { retryAt }),
      },
    );
    await this.#follow(turn, handle, origin === "restored" ? "restored" : "asked");
  }

  /** Makes the conversation end where that turn begins. */
  async #prepare(key: string, again: boolean): Promise<void> {
    if (again) await this.#takeBack(key);
    if (this.#conversation !== undefined) return;
    const said = itemsOf(this.#state.turns.slice(0, this.#indexOf(key)));
    const { id } = await this.#client.conversations.create({ items: said.slice(0, ITEMS_AT_ONCE) });
    for (let from = ITEMS_AT_ONCE; from < said.length; from += ITEMS_AT_ONCE) {
      await this.#client.conversations.items.create(id, said.slice(from, from + ITEMS_AT_ONCE));
    }
    if (this.#indexOf(key) < 0) throw new CancelledError("The reader began another chat.");
    this.#conversation = id;
    this.#save();
    void this.#join(id);
  }

  /** Takes the last turn out of the conversation, if it has come to be in there, to make room for this one. */
  async #takeBack(key: string): Promise<void> {
    const conversation = this.#conversation;
    if (conversation === undefined) return;
    const items = await this.#itemsOf(conversation);
    if (!items || turnsOf(items).length <= this.#indexOf(key)) return;
    const from = items.findLastIndex((item) => item.type === "message" && item.role === "user");
    for (const { id } of items.slice(from)) await this.#client.conversations.items.delete(conversation, id);
  }

  /** Nothing when the server does not know the conversation; it is given what has been said with the next question. */
  async #itemsOf(conversation: string): Promise<ConversationItem[] | undefined> {
    const items: ConversationItem[] = [];
    try {
      const all = this.#client.conversations.items.all(conversation, { order: "asc", limit: 100 });
      for await (const item of all) items.push(item);
      return items;
    } catch (error) {
      if (!(error instanceof NotFoundError)) throw error;
      if (conversation === this.#conversation) {
        this.#forget();
        this.#set({ isGone: this.#state.turns.length === 0 });
      }
      return undefined;
    }
  }

  #forget(): void {
    this.#leave.abort();
    this.#conversation = undefined;
    this.#save();
  }

  /** Learns of the turns that others ask for. */
  async #join(conversation: string): Promise<void> {
    this.#leave.abort();
    this.#leave = new AbortController();
    const turns = this.#client.conversations.follow(conversation, { signal: this.#leave.signal });
    try {
      for await (const handle of turns) void this.#refresh().then(() => this.#adopt(handle));
    } catch {
      // The connection's state tells the reader.
    }
  }

  /** Shows what the server has. */
  async #refresh(): Promise<void> {
    const conversation = this.#conversation;
    if (conversation === undefined) return;
    const items = await this.#itemsOf(conversation).catch(() => undefined);
    if (!items || conversation !== this.#conversation) return;
    this.#set({ turns: merged(turnsOf(items), this.#state.turns) });
    this.#save();
  }

  /** A question that somebody has asked, as this page opens: its answer is under way, or has failed. */
  async #followUnanswered(): Promise<void> {
    const turn = this.#unanswered();
    if (!turn || this.#conversation === undefined) return;
    const handle = this.#client.responses.resume({ conversation: this.#conversation });
    try {
      await handle.id;
      await this.#adopt(handle);
    } catch (error) {
      if (this.#unanswered()?.key === turn.key) this.#fail(turn.key, error);
    }
  }

  /** Shows a response that was not asked for here. */
  async #adopt(handle: ResponseHandle): Promise<void> {
    const responseId = await handle.id;
    const { turns } = this.#state;
    if (turns.some((turn) => turn.responseId === responseId)) return;
    const turn = this.#unanswered();
    if (turn) {
      this.#update(turn.key, { responseId });
      return this.#follow({ ...turn, responseId }, handle, "restored");
    }
    // It has ended: the turn is there, and lacks what the items do not tell.
    const last = turns.findLast(({ key }) => !this.#handles.has(key));
    const response = await handle.final().catch(() => undefined);
    if (last && response && contentOf(response).answer === last.answer) {
      this.#update(last.key, finished(response, contentOf(response)));
      this.#save();
    }
  }

  /** The turn that waits for an answer which nobody here follows. */
  #unanswered(): Turn | undefined {
    return this.#state.turns.findLast(
      (turn) => isRunning(turn) && turn.askedAt === undefined && !this.#handles.has(turn.key),
    );
  }

  async #follow({ key }: Turn, handle: ResponseHandle, origin: "asked" | "restored"): Promise<void> {
    this.#handles.set(key, handle);
    const show = (change: Partial<Turn>): void => {
      this.#update(key, change);
      if (change.responseId !== undefined) this.#save();
    };
    try {
      show(await followAnswer(handle, origin === "asked", show));
    } catch (error) {
      // Another chat, or another client, has taken its place.
      if (this.#handles.get(key) !== handle) return;
      this.#handles.delete(key);
      await this.#recover(key, error);
    }
    if (this.#handles.get(key) === handle) this.#handles.delete(key);
  }

  /** What can be mended without the reader is; the rest is told. */
  async #recover(key: string, error: unknown): Promise<void> {
    const turn = this.#state.turns[this.#indexOf(key)];
    if (!turn) return;
    if (error instanceof NotFoundError && error.code === "conversation_not_found") {
      // The server forgot the conversation; the page did not.
      this.#forget();
      return this.#run(turn, "asked");
    }
    if ((error instanceof ResumeExpiredError || error instanceof NotFoundError) && turn.responseId !== undefined) {
      const stored = await this.#client.responses.retrieve(turn.responseId).catch(() => undefined);
      if (stored && stored.status !== "in_progress") return this.#update(key, finished(stored, contentOf(stored)));
    }
    this.#fail(key, error);
  }

  #fail(key: string, error: unknown): void {
    const over = { stopping: false, retryAt: undefined };
    // Stopped before the server had taken the request.
    if (error instanceof CancelledError) this.#update(key, { ...over, status: "stopped" });
    else {
      const before = this.#state.turns.slice(0, Math.max(0, this.#indexOf(key)));
      const problem = problemOf(error, { isFirst: itemsOf(before).length === 0 });
      this.#update(key, { ...over, status: "failed", problem });
    }
    if (error instanceof AuthenticationError) this.#askForToken();
    this.#save();
  }

  #indexOf(key: string): number {
    return this.#state.turns.findIndex((turn) => turn.key === key);
  }

  #update(key: string, change: Partial<Turn>): void {
    this.#set({ turns: this.#state.turns.map((turn) => (turn.key === key ? { ...turn, ...change } : turn)) });
  }

  #save(): void {
    saveChat({ conversation: this.#conversation, turns: this.#state.turns });
  }

  #set(change: Partial<ChatState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }
}
