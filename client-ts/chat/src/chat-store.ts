import type { CaudalClient, InputItem } from "caudal-client";
import type { LocalRun } from "caudal-client/local";
import { Answers, type Branch, type Origin } from "./answers.ts";
import { Chat, type ChatState } from "./chat.ts";
import { ChatList } from "./chat-list.ts";
import { isLocal } from "./local/ids.ts";
import { Place, type PlaceNeeds } from "./local/place.ts";
import { branchOf, ServerChat } from "./server-chat.ts";
import { Session } from "./session.ts";
import { paramsOf, type Settings } from "./settings.ts";
import type { ChatStorage } from "./storage.ts";
import { Titler } from "./titler.ts";
import { itemsOf, merged, messageOf, turnsOf } from "./transcript.ts";
import { type Attachment, isRunning, newKey, type Turn } from "./turn.ts";

/**
 * The user's actions: ask, regenerate, edit, delete, open, search. The server stores the conversations. The page shows one of
 * them, with the turns of this browser that have not joined it yet. Independent of React.
 */
export class ChatStore {
  readonly list: ChatList;
  readonly place: Place;
  readonly #session: Session;
  readonly #storage: ChatStorage;
  readonly #chat: Chat;
  readonly #server: ServerChat;
  readonly #answers: Answers;
  readonly #titler: Titler;
  /** Aborted when the page leaves the conversation. */
  #leave = new AbortController();
  #joining: Promise<void> | undefined;

  /** `loadEngine` imports the engine in the browser; without it answers come from the server only. */
  constructor(server: URL, storage: ChatStorage, loadEngine?: PlaceNeeds["load"]) {
    this.#storage = storage;
    this.#session = new Session(server, storage, {
      onChange: () => {
        this.place.connection(this.#session.state.connection);
        this.#chat.set(this.#session.state);
      },
      onConnected: () => this.#onConnected(),
    });
    const client = (): CaudalClient => this.#session.client;
    const policy = (): Settings["policy"] => this.#chat.snapshot().settings.policy;
    this.place = new Place({ load: loadEngine, client, policy, memory: storage });
    this.#chat = new Chat(storage, this.#session.state);
    this.#server = new ServerChat(client);
    this.list = new ChatList(client, storage, () => this.#onOtherTab());
    this.#titler = new Titler(client, this.list);
    this.#answers = new Answers({
      ...{ chat: this.#chat, session: this.#session, storage, place: this.place, server: this.#server },
      onConversation: (id, branch) => this.#onConversation(id, branch),
      onAnswered: (key) => this.#onAnswered(key),
      join: () => this.#join(),
      refresh: () => this.#refresh(),
    });
    this.#start();
  }

  get #conversation(): string | undefined {
    return this.#chat.conversation;
  }

  get subscribe(): Chat["subscribe"] {
    return this.#chat.subscribe;
  }

  get snapshot(): Chat["snapshot"] {
    return this.#chat.snapshot;
  }

  get client(): CaudalClient {
    return this.#session.client;
  }

  /** Sends a message. Stops a running answer first: the message interrupts it. */
  async send(prompt: string, attachments: readonly Attachment[] = []): Promise<void> {
    const { last } = this.#chat;
    const conversation = this.#conversation;
    if (last && isRunning(last)) {
      this.stop();
      await this.#chat.settled(last.key);
      if (conversation !== this.#conversation) return;
    }
    this.#ask(this.#chat.turns, { prompt, attachments });
  }

  /** Asks the last question again: for another version of its answer, or for the first one if it has none. */
  regenerate(): void {
    const { last } = this.#chat;
    if (!last || isRunning(last)) return;
    const isAnswered = last.status !== "failed" && (last.answer !== "" || (last.calls ?? []).length > 0);
    if (isAnswered) return this.edit(last.key, last.prompt);
    if (last.awaitsJoin) void this.place.discard(last.responseId ?? "");
    this.#ask(this.#chat.before(last.key), last, { insteadOf: last });
  }

  /** Asks the model to continue the last answer where it was cut. */
  continueAnswer(): void {
    const { last } = this.#chat;
    if (!last || isRunning(last) || last.answer === "") return;
    const turn: Turn = { ...last, status: "waiting", continuation: newKey(), askedAt: Date.now() };
    this.#chat.update(last.key, turn);
    this.#chat.save();
    void this.#answers.run(turn);
  }

  /** Continues the last answer in this browser after the network cut it. */
  handOver(): void {
    const { last } = this.#chat;
    if (last) void this.#answers.handOver(last.key);
  }

  /** Replaces a question in a branch of the conversation. The old turns stay in the original. */
  edit(key: string, prompt: string): void {
    const at = this.#chat.indexOf(key);
    const turn = this.#chat.turn(key);
    if (!turn || isRunning(this.#chat.last)) return;
    const branch = { from: this.#conversation, at };
    this.#leave.abort();
    this.#chat.set({ conversation: undefined });
    this.#ask(this.#chat.before(key), { prompt, attachments: turn.attachments }, { branch });
  }

  /** Deletes a question and its answer. */
  async deleteTurn(key: string): Promise<void> {
    const at = this.#chat.indexOf(key);
    const id = this.#conversation;
    const turn = this.#chat.turn(key);
    if (!turn || isRunning(turn)) return;
    const isThere = id !== undefined && !isLocal(id) && !(turn.awaitsJoin && this.place.snapshot().isOffline);
    if (isThere) await this.#server.deleteTurn(id, at);
    if (turn.awaitsJoin) await this.place.discard(turn.responseId ?? "");
    this.#chat.set({ turns: this.#chat.turns.filter((turn) => turn.key !== key) });
    this.#chat.save();
    this.list.announce();
  }

  stop(): void {
    const { last } = this.#chat;
    if (last && isRunning(last)) this.#answers.stop(last.key);
  }

  newChat(): void {
    this.stop();
    this.#enter(undefined, []);
  }

  /** Shows another conversation. A generation of the current one goes on. */
  open(conversation: string | undefined): void {
    const id = conversation && (this.#storage.movedTo(conversation) ?? conversation);
    if (id === this.#conversation) return;
    this.#enter(id, id === undefined ? [] : this.#storage.loadTurns(id));
    this.#pickUp();
    void this.#refresh().then(() => this.#answers.followUnanswered());
  }

  /** Deletes a conversation with its branches. */
  async remove(conversation: string): Promise<void> {
    const waiting = this.#storage.loadTurns(conversation).filter(({ awaitsJoin }) => awaitsJoin);
    for (const { responseId } of waiting) await this.place.discard(responseId ?? "");
    const ids = await this.list.remove(conversation);
    if (this.#conversation !== undefined && ids.includes(this.#conversation)) this.#enter(undefined, []);
  }

  change(settings: Partial<Settings>): void {
    this.#chat.set({ settings: { ...this.#chat.snapshot().settings, ...settings } });
    this.#storage.saveSettings(this.#chat.snapshot().settings);
  }

  /** Counts the tokens of the prompt with this message, with all turns before it or `alone`. */
  countTokens(prompt: string, attachments: readonly Attachment[], alone = false): Promise<number> {
    const { settings, turns } = this.#chat.snapshot();
    const message: InputItem = messageOf({ prompt, attachments });
    const params = { ...paramsOf(settings, this.#session.chosenModel), input: [message] };
    const conversation = this.#conversation;
    const isThere = !alone && conversation !== undefined && !isLocal(conversation);
    return this.place.countTokens(isThere ? { ...params, conversation } : params, alone ? [] : itemsOf(turns));
  }

  chooseModel(id: string): void {
    this.#session.chooseModel(id);
  }

  reconnect(): void {
    this.client.connect();
  }

  close(): void {
    this.#leave.abort();
    this.#session.close();
    void this.place.unload();
  }

  authorize(token: string): void {
    this.#answers.leave();
    this.#session.authorize(token);
    this.#start();
    if (this.#chat.last?.status === "failed") this.regenerate();
  }

  #start(): void {
    this.#session.open();
    this.#pickUp();
  }

  #onConnected(): void {
    void this.#join()
      .then(() => this.#refresh())
      .then(() => this.#answers.followUnanswered());
    void this.list.refresh();
  }

  /** Continues the turn that was running when the turns were saved. */
  #pickUp(): void {
    const { last } = this.#chat;
    if (last && isRunning(last)) void this.#answers.pickUp(last);
    if (this.#conversation !== undefined) void this.#watch(this.#conversation);
  }

  /** Leaves the conversation for another one. */
  #enter(conversation: string | undefined, turns: readonly Turn[]): void {
    this.#leave.abort();
    this.#answers.leave();
    this.#chat.set({ conversation, turns, isGone: false });
    this.#chat.save();
    if (conversation !== undefined) void this.#watch(conversation);
  }

  #ask(before: readonly Turn[], question: Pick<Turn, "prompt" | "attachments">, origin: Origin = {}): void {
    this.#titler.pause();
    const { prompt, attachments = [] } = question;
    const files = attachments.length > 0 ? { attachments } : {};
    const turn: Turn = { key: newKey(), prompt, ...files, status: "waiting", answer: "", askedAt: Date.now() };
    this.#chat.set({ turns: [...before, turn], isGone: false });
    // The page stores the conversation unchanged until a branch exists.
    if (!origin.branch) this.#chat.save();
    void this.#answers.run(turn, origin);
  }

  #onConversation(id: string, branch: Branch | undefined): void {
    const from = branch?.from;
    const parent = this.list.snapshot().chats.find((chat) => chat.id === from);
    if (isLocal(id)) {
      const isBranch = branch && from !== undefined;
      const metadata = isBranch ? branchOf(parent ?? { id: from, metadata: {} }, branch.at) : {};
      this.list.addLocal(id, this.#chat.turns[0]?.prompt ?? "", metadata);
    }
    this.#chat.set({ conversation: id });
    this.#chat.save();
    void this.#watch(id);
    void this.list.changed();
  }

  #onAnswered(key: string): void {
    const { conversation, model } = this.#chat.snapshot();
    const turn = this.#chat.turn(key);
    void this.list.changed();
    if (turn?.awaitsJoin) return void this.#join();
    const isAnswered = turn?.status === "done" && turn.answer !== "";
    if (conversation === undefined || !isAnswered) return;
    void this.#titler.add(conversation, { prompt: turn.prompt, answer: turn.answer, model });
  }

  /** Takes over the changes of another tab. */
  #onOtherTab(): void {
    const conversation = this.#conversation;
    if (conversation === undefined) return;
    const moved = this.#storage.movedTo(conversation);
    const stored = new Map(this.#storage.loadTurns(moved ?? conversation).map((turn) => [turn.key, turn]));
    const isOurs = (turn: Turn): boolean => !turn.awaitsJoin || this.#answers.isFollowed(turn.key);
    const turns = this.#chat.turns.map((turn) => (isOurs(turn) ? turn : (stored.get(turn.key) ?? turn)));
    const known = new Set(turns.map(({ key }) => key));
    const isNews = ({ key, awaitsJoin, responseId }: Turn): boolean =>
      awaitsJoin === true && responseId !== undefined && !known.has(key);
    const news = [...stored.values()].filter(isNews);
    this.#chat.set({ turns: [...turns, ...news] });
    // If the other tab is closed before the answer has ended, this tab continues the answer.
    for (const turn of news) if (isRunning(turn)) void this.#answers.pickUp(turn);
    if (moved !== undefined) {
      this.#moveTo(moved);
      // The other tab has reached the server.
      this.reconnect();
    }
    void this.#refresh();
  }

  /** Sends the turns of this browser to the server if there is a connection. */
  #join(): Promise<void> {
    this.#joining ??= this.#joinNow().finally(() => {
      this.#joining = undefined;
    });
    return this.#joining;
  }

  async #joinNow(): Promise<void> {
    if (this.place.snapshot().isOffline) return;
    // If joining fails, the next connection tries again.
    const runs = await this.place.join((run) => this.#isShown(run)).catch(() => []);
    const begun = new Set<string>();
    for (const run of runs) {
      this.#joined(run);
      const { conversation = "", localConversation: local } = run;
      if (local === undefined || begun.has(conversation)) continue;
      begun.add(conversation);
      await this.list.joined(local, conversation).catch(() => undefined);
      const [first] = this.#storage.loadTurns(conversation);
      const { model } = this.#chat.snapshot();
      if (first?.status === "done") void this.#titler.add(conversation, { ...first, model });
    }
    if (runs.length === 0) return;
    await this.#refresh();
    await this.list.changed();
  }

  #isShown({ id, conversation }: LocalRun): boolean {
    const stored = conversation === undefined ? [] : this.#storage.loadTurns(conversation);
    return [...stored, ...this.#chat.turns].some(({ responseId }) => responseId === id);
  }

  /** Moves a joined turn to its conversation on the server, with the state that the page has of it. */
  #joined({ id: responseId, conversation: to = "", localConversation: from = to }: LocalRun): void {
    const joined = (turns: readonly Turn[]): Turn[] =>
      turns.map((turn) => (turn.responseId === responseId ? { ...turn, awaitsJoin: undefined } : turn));
    const isStored = this.#storage.movedTo(from) === undefined;
    this.#storage.move(from, to, joined(this.#storage.loadTurns(isStored ? from : to)));
    if (this.#conversation !== from && this.#conversation !== to) return;
    this.#chat.set({ turns: joined(this.#chat.turns) });
    if (this.#conversation !== to) this.#moveTo(to);
    this.#chat.save();
  }

  /** Follows the conversation under its new id. */
  #moveTo(conversation: string): void {
    this.#chat.set({ conversation });
    this.#chat.save();
    void this.#watch(conversation);
  }

  /** Shows the turns that other clients create. */
  async #watch(conversation: string): Promise<void> {
    this.#leave.abort();
    this.#leave = new AbortController();
    if (isLocal(conversation)) return;
    const turns = this.client.conversations.follow(conversation, { signal: this.#leave.signal });
    try {
      for await (const handle of turns) {
        void this.#refresh().then(() => this.#answers.adopt(handle));
        void this.list.refresh();
      }
    } catch {
      // The page shows the state of the connection.
    }
  }

  /** Fetches the conversation and shows it. */
  async #refresh(): Promise<void> {
    const conversation = this.#conversation;
    if (conversation === undefined) return;
    if (isLocal(conversation)) return this.#chat.turns.length === 0 ? this.#forget() : undefined;
    const isSettled = (turn: Turn): boolean => !isRunning(turn) && turn.status !== "failed" && !turn.awaitsJoin;
    const settled = new Set(this.#chat.turns.filter(isSettled).map(({ key }) => key));
    try {
      const items = await this.#server.items(conversation);
      if (conversation !== this.#conversation) return;
      if (!items) return this.#forget();
      this.#chat.set({ turns: merged(turnsOf(items), this.#chat.turns, settled) });
      this.#chat.save();
    } catch {
      // The page shows the state of the connection.
    }
  }

  /** Handles a conversation that the server does not have: the next question creates a new one with the turns so far. */
  #forget(): void {
    this.#leave.abort();
    this.#chat.set({ conversation: undefined, isGone: this.#chat.turns.length === 0 });
    this.#chat.save();
  }
}

export type { ChatState };
