import {
  AuthenticationError,
  CancelledError,
  type CaudalClient,
  type ConversationItem,
  type Input,
  NotFoundError,
  type ResponseHandle,
  ResumeExpiredError,
} from "caudal-client";
import { contentOf } from "./answer.ts";
import { ChatList } from "./chat-list.ts";
import type { ChatSummary } from "./chat-summary.ts";
import { rootOf } from "./family.ts";
import { problemOf } from "./problems.ts";
import { retryUntil } from "./retry-until.ts";
import { Session, type SessionState } from "./session.ts";
import { paramsOf, type Settings } from "./settings.ts";
import type { ChatStorage } from "./storage.ts";
import { finished, streamAnswer } from "./stream-answer.ts";
import { Titler } from "./titler.ts";
import { CONTINUE, itemsByTurn, itemsOf, joined, merged, messageOf as questionOf, turnsOf } from "./transcript.ts";
import { type Attachment, isRunning, newKey, type Turn } from "./turn.ts";

export interface ChatState extends SessionState {
  readonly conversation: string | undefined;
  readonly turns: readonly Turn[];
  readonly settings: Settings;
  /** The address names a conversation that the server does not have. */
  readonly isGone: boolean;
}

/** Items that one request may bring. */
const ITEMS_AT_ONCE = 20;

/**
 * The conversation: what has been said and what is being said by whomever. The server has it; the page shows it, and asks.
 * No React.
 */
export class ChatStore {
  readonly list: ChatList;
  readonly #session: Session;
  readonly #storage: ChatStorage;
  #state: ChatState;
  readonly #listeners = new Set<() => void>();
  /** What is being followed, by the key of its turn. */
  readonly #handles = new Map<string, ResponseHandle>();
  /** Leaves the conversation. */
  #leave = new AbortController();
  readonly #titler: Titler;

  constructor(server: URL, storage: ChatStorage) {
    this.#storage = storage;
    this.#session = new Session(server, storage, {
      onChange: () => this.#set(this.#session.state),
      onConnected: () => this.#onConnected(),
    });
    this.#state = {
      ...storage.loadChat(),
      ...this.#session.state,
      settings: storage.settings(),
      isGone: false,
    };
    this.list = new ChatList(
      () => this.#client,
      storage,
      () => void this.#refresh(),
    );
    this.#titler = new Titler(() => this.#client, this.list);
    this.#start();
  }

  get #client(): CaudalClient {
    return this.#session.client;
  }

  get #conversation(): string | undefined {
    return this.#state.conversation;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): ChatState => this.#state;

  /** Asks. What runs is stopped first: the message interrupts the answer. */
  async send(prompt: string, attachments: readonly Attachment[] = []): Promise<void> {
    const last = this.#state.turns.at(-1);
    const conversation = this.#conversation;
    if (isRunning(last)) {
      this.stop();
      await this.#settled(last?.key);
      if (conversation !== this.#conversation) return;
    }
    this.#ask(this.#state.turns, prompt, { attachments });
  }

  /** Asks the last question again: another answer, or a first one after a failure. */
  regenerate(): void {
    const last = this.#state.turns.at(-1);
    if (!last || isRunning(last)) return;
    this.#ask(this.#state.turns.slice(0, -1), last.prompt, { again: true, attachments: last.attachments });
  }

  /** Has the model write on where the last answer was cut. */
  continueAnswer(): void {
    const last = this.#state.turns.at(-1);
    if (!last || isRunning(last) || last.answer === "") return;
    const turn: Turn = { ...last, status: "waiting", continuation: newKey(), askedAt: Date.now() };
    this.#update(last.key, turn);
    this.#save();
    void this.#run(turn, "asked");
  }

  /** Asks something else in place of a turn, in a branch of the conversation; the old turns stay where they are. */
  async edit(key: string, prompt: string): Promise<void> {
    const at = this.#indexOf(key);
    const turn = this.#state.turns[at];
    const id = this.#conversation;
    if (!turn || isRunning(this.#state.turns.at(-1))) return;
    const before = this.#state.turns.slice(0, at);
    const { attachments } = turn;
    const first = id === undefined ? undefined : itemsByTurn((await this.#itemsOf(id)) ?? [])[at]?.[0];
    if (id === undefined || !first) return this.#ask(before, prompt, { again: true, attachments });
    const { metadata } = await this.#client.conversations.retrieve(id);
    const own = { parent: id, root: rootOf({ id, metadata } as ChatSummary), at: String(at) };
    const fork = await this.#client.conversations.fork(id, { before: first.id, metadata: { ...metadata, ...own } });
    this.#enter(fork.id, before);
    this.#ask(before, prompt, { attachments });
    void this.list.changed();
  }

  /** Deletes a question and its answer. */
  async deleteTurn(key: string): Promise<void> {
    const at = this.#indexOf(key);
    const id = this.#conversation;
    if (at < 0 || isRunning(this.#state.turns[at])) return;
    const items = id === undefined ? [] : (itemsByTurn((await this.#itemsOf(id)) ?? [])[at] ?? []);
    // The newest first: if this is cut short, what is left is still a conversation.
    for (const item of items.reverse()) await this.#client.conversations.items.delete(id ?? "", item.id);
    this.#set({ turns: this.#state.turns.filter((turn) => turn.key !== key) });
    this.#save();
    this.list.announce();
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
    this.#enter(undefined, []);
  }

  /** Shows another conversation. What runs in this one goes on. */
  open(conversation: string | undefined): void {
    if (conversation === this.#conversation) return;
    this.#enter(conversation, conversation === undefined ? [] : this.#storage.loadTurns(conversation));
    this.#pickUp();
    void this.#refresh().then(() => this.#followUnanswered());
  }

  /** Deletes a conversation with its branches. */
  async remove(conversation: string): Promise<void> {
    const ids = await this.list.remove(conversation);
    if (this.#conversation !== undefined && ids.includes(this.#conversation)) this.#enter(undefined, []);
  }

  change(settings: Partial<Settings>): void {
    this.#set({ settings: { ...this.#state.settings, ...settings } });
    this.#storage.saveSettings(this.#state.settings);
  }

  chooseModel(id: string): void {
    this.#session.chooseModel(id);
  }

  get client(): CaudalClient {
    return this.#client;
  }

  reconnect(): void {
    this.#client.connect();
  }

  close(): void {
    this.#leave.abort();
    this.#session.close();
  }

  authorize(token: string): void {
    this.#handles.clear();
    this.#session.authorize(token);
    this.#start();
    const last = this.#state.turns.at(-1);
    if (last?.status === "failed") this.regenerate();
  }

  #start(): void {
    this.#session.open();
    this.#pickUp();
  }

  #onConnected(): void {
    void this.#refresh().then(() => this.#followUnanswered());
    void this.list.refresh();
  }

  /** Goes on with what ran when the turns were saved. */
  #pickUp(): void {
    const last = this.#state.turns.at(-1);
    if (last && isRunning(last)) {
      if (last.responseId === undefined && last.askedAt !== undefined) void this.#run(last, "restored");
      if (last.responseId !== undefined) {
        void this.#follow(last, this.#client.responses.resume(last.responseId), "restored");
      }
    }
    if (this.#conversation !== undefined) void this.#join(this.#conversation);
  }

  /** Leaves the conversation for another one. */
  #enter(conversation: string | undefined, turns: readonly Turn[]): void {
    this.#leave.abort();
    this.#handles.clear();
    this.#set({ conversation, turns, isGone: false });
    this.#save();
    if (conversation !== undefined) void this.#join(conversation);
  }

  /** Resolves when the turn has ended, or is gone. */
  #settled(key: string | undefined): Promise<void> {
    return new Promise((resolve) => {
      const unsubscribe = this.subscribe(() => {
        if (isRunning(this.#state.turns.find((turn) => turn.key === key))) return;
        unsubscribe();
        resolve();
      });
    });
  }

  #ask(
    before: readonly Turn[],
    prompt: string,
    { again = false, attachments }: { again?: boolean; attachments?: readonly Attachment[] | undefined } = {},
  ): void {
    this.#titler.pause();
    const files = attachments && attachments.length > 0 ? { attachments } : {};
    const turn: Turn = { key: newKey(), prompt, ...files, status: "waiting", answer: "", askedAt: Date.now() };
    this.#set({ turns: [...before, turn], isGone: false });
    this.#save();
    void this.#run(turn, again ? "again" : "asked");
  }

  /** Gets an answer to what was asked here. */
  async #run(turn: Turn, origin: "asked" | "again" | "restored"): Promise<void> {
    const { key, prompt } = turn;
    try {
      await retryUntil(
        () => this.#prepare(key, origin === "again"),
        () => this.#state.turns.some((turn) => turn.key === key && !turn.stopping),
        (retryAt) => this.#update(key, { retryAt }),
      );
    } catch (error) {
      return this.#fail(key, error);
    }
    const { models, model, settings } = this.#state;
    const input: Input =
      turn.continuation === undefined
        ? turn.attachments
          ? [questionOf(turn)]
          : prompt
        : [{ role: "developer", content: CONTINUE }];
    const handle = this.#client.responses.create(
      {
        ...paramsOf(settings, this.#session.chosenModel),
        ...(models.length > 1 && model !== undefined ? { model } : {}),
        conversation: this.#conversation ?? null,
        input,
        client_request_id: turn.continuation ?? key,
      },
      {
        onQueued: (queue) => this.#update(key, { queue }),
        onRetry: ({ retryAt }) => this.#update(key, { retryAt }),
        onRecovering: () => this.#update(key, { recovering: true }),
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
    this.#set({ conversation: id });
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
    this.#set({ conversation: undefined });
    this.#save();
  }

  /** Learns of the turns that others ask for. */
  async #join(conversation: string): Promise<void> {
    this.#leave.abort();
    this.#leave = new AbortController();
    const turns = this.#client.conversations.follow(conversation, { signal: this.#leave.signal });
    try {
      for await (const handle of turns) {
        void this.#refresh().then(() => this.#adopt(handle));
        void this.list.refresh();
      }
    } catch {
      // The connection's state tells the reader.
    }
  }

  /** Shows what the server has. */
  async #refresh(): Promise<void> {
    const conversation = this.#conversation;
    if (conversation === undefined) return;
    const settled = new Set(
      this.#state.turns.filter((turn) => !isRunning(turn) && turn.status !== "failed").map(({ key }) => key),
    );
    const items = await this.#itemsOf(conversation).catch(() => undefined);
    if (!items || conversation !== this.#conversation) return;
    this.#set({ turns: merged(turnsOf(items), this.#state.turns, settled) });
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

  async #follow(turn: Turn, handle: ResponseHandle, origin: "asked" | "restored"): Promise<void> {
    const { key } = turn;
    this.#handles.set(key, handle);
    const before = turn.continuation === undefined ? "" : turn.answer;
    const show = (change: Partial<Turn>): void => {
      if (this.#handles.get(key) !== handle) return;
      const answer = change.answer === undefined ? {} : { answer: joined(before, change.answer) };
      this.#update(key, { ...change, ...answer });
      if (change.responseId !== undefined) this.#save();
    };
    try {
      show({ ...(await streamAnswer(handle, origin === "asked", show)), continuation: undefined });
      if (turn.continuation !== undefined) void this.#refresh();
      else if (origin === "asked") this.#giveTitle(key);
    } catch (error) {
      // Another chat, or another client, has taken its place.
      if (this.#handles.get(key) !== handle) return;
      this.#handles.delete(key);
      await this.#recover(key, error);
    }
    if (this.#handles.get(key) === handle) this.#handles.delete(key);
  }

  #giveTitle(key: string): void {
    const { conversation, turns, model } = this.#state;
    const turn = turns[this.#indexOf(key)];
    void this.list.changed();
    const isAnswered = turn?.status === "done" && turn.answer !== "";
    if (conversation === undefined || !isAnswered) return;
    void this.#titler.add(conversation, { prompt: turn.prompt, answer: turn.answer, model });
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
    if (error instanceof AuthenticationError) this.#session.askForToken();
    this.#save();
  }

  #indexOf(key: string): number {
    return this.#state.turns.findIndex((turn) => turn.key === key);
  }

  #update(key: string, change: Partial<Turn>): void {
    this.#set({ turns: this.#state.turns.map((turn) => (turn.key === key ? { ...turn, ...change } : turn)) });
  }

  #save(): void {
    this.#storage.saveChat({ conversation: this.#conversation, turns: this.#state.turns });
  }

  #set(change: Partial<ChatState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }
}
