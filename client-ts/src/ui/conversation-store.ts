/** One conversation for display. Independent of any framework: subscribe, and read `getSnapshot`. */

import type { CaudalClient } from "../client.ts";
import type { TurnParams } from "../conversations.ts";
import { CancelledError, CaudalError, NotFoundError } from "../errors.ts";
import type { QueuePosition } from "../events.ts";
import type { ResponseHandle } from "../handle.ts";
import { newId } from "../ids.ts";
import { nextFrame } from "../pace.ts";
import type { ConversationItem, FunctionCallOutput, Input } from "../wire.ts";
import { Answer, type AnswerPart, partsOf, withOutputs } from "./answer.ts";
import { PendingTurns, type TurnStorage } from "./pending.ts";
import { inputText, isRunning, merged, type Turn, turnsOf } from "./turns.ts";

export interface ConversationSnapshot {
  /** Undefined until the first message of a new conversation is sent. */
  readonly id: string | undefined;
  readonly turns: readonly Turn[];
  /** "loading" until the stored turns have arrived. */
  readonly status: "loading" | "ready" | "failed";
  /** The reason why the conversation could not be loaded. */
  readonly error?: Error | undefined;
  /** Whether a turn is running. */
  readonly isRunning: boolean;
  /** Whether there are older turns, which `loadOlder` loads. */
  readonly hasOlder: boolean;
}

export interface ConversationOptions {
  /**
   * The store of questions without an answer, so that a reloaded page can send them again. Default: `sessionStorage`,
   * if the platform has it.
   */
  storage?: TurnStorage | undefined;
}

/** A turn that this page follows. */
interface Live {
  answer: Answer;
  handle?: ResponseHandle;
  queue?: QueuePosition;
  isRecovering: boolean;
  isStopped: boolean;
}

/** Resets a turn before it goes on. */
const AGAIN = { status: "queued", endedBy: undefined, error: undefined, responseId: undefined } as const;

const PAGE = 40;
const LONGEST_PAGE = 100;

/** The snapshot that a server renders, and a client before the conversation is loaded. */
export const EMPTY: ConversationSnapshot = {
  id: undefined,
  turns: [],
  status: "loading",
  isRunning: false,
  hasOlder: false,
};

export class ConversationStore {
  readonly #client: CaudalClient;
  readonly #pending: PendingTurns;
  readonly #listeners = new Set<() => void>();
  readonly #live = new Map<string, Live>();
  #snapshot: ConversationSnapshot;
  #items: readonly ConversationItem[] = [];
  #creating: Promise<string> | undefined;
  #leave: AbortController | undefined;
  #isFrameDue = false;

  constructor(client: CaudalClient, id: string | undefined, options: ConversationOptions = {}) {
    this.#client = client;
    this.#pending = new PendingTurns(options.storage);
    this.#snapshot = { ...EMPTY, id, status: id === undefined ? "ready" : "loading" };
  }

  /** Adds a listener. The conversation is loaded for the first listener and followed until the last one is removed. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    this.#start();
    return () => {
      this.#listeners.delete(listener);
      // React unsubscribes and subscribes again within one tick.
      setTimeout(() => this.#listeners.size === 0 && this.#stop());
    };
  };

  readonly getSnapshot = (): ConversationSnapshot => this.#snapshot;

  /** Sends a message. Creates the conversation if there is none yet. */
  send(input: Input, params: TurnParams = {}): void {
    void this.#ask(this.#add(newId("turn"), input), { ...params, input });
  }

  /** Sends the results of the last turn's calls, so that the turn goes on. */
  sendOutputs(outputs: readonly { callId: string; output: string }[], params: TurnParams = {}): void {
    const turn = this.#snapshot.turns.at(-1);
    if (!turn || isRunning(turn)) return;
    const type = "function_call_output" as const;
    const input: FunctionCallOutput[] = outputs.map(({ callId: call_id, output }) => ({ type, call_id, output }));
    const parts = withOutputs(turn.parts, input);
    this.#update(turn.key, { ...AGAIN, parts });
    void this.#ask({ ...turn, parts }, { ...params, input }, newId("turn"));
  }

  /** Cancels the running answers. Resolves when they have ended. */
  async stop(): Promise<void> {
    await Promise.all(
      [...this.#live.values()].map((live) => {
        live.isStopped = true;
        return live.handle?.cancel();
      }),
    );
  }

  /** Replaces the last answer by a new one. */
  regenerate(params: TurnParams = {}): void {
    const turn = this.#snapshot.turns.at(-1);
    const { id } = this.#snapshot;
    if (!turn || isRunning(turn)) return;
    this.#update(turn.key, {
      parts: [],
      status: "queued",
      endedBy: undefined,
      error: undefined,
      responseId: undefined,
    });
    // A question that the server never stored is sent again. Otherwise only its answer is deleted.
    const isStored = turn.status === "ended" || turn.itemIds.length > 0;
    if (!isStored || id === undefined) void this.#ask(turn, { ...params, input: turn.input }, newId("turn"));
    else void this.#follow(turn.key, (news) => this.#client.conversations.regenerate(id, params, news));
  }

  /** Copies the turns before the turn `key` into a new conversation. Resolves to the new conversation's id. */
  async forkBefore(key: string): Promise<string> {
    const { id, turns } = this.#snapshot;
    const index = turns.findIndex((turn) => turn.key === key);
    if (id === undefined || index < 0) throw new CaudalError("There is no such turn.");
    await this.#refresh(id);
    const [before] = this.#snapshot.turns[index]?.itemIds ?? [];
    return (await this.#client.conversations.fork(id, before === undefined ? {} : { before })).id;
  }

  /** Loads the turns before the oldest one. */
  async loadOlder(): Promise<void> {
    const { id, hasOlder } = this.#snapshot;
    if (id !== undefined && hasOlder) await this.#refresh(id, this.#items.length + PAGE);
  }

  #start(): void {
    const { id } = this.#snapshot;
    if (this.#leave) return;
    const leave = new AbortController();
    this.#leave = leave;
    const unlisten = this.#client.onConnectionStateChange(() => this.#paint());
    leave.signal.addEventListener("abort", unlisten);
    if (id !== undefined) void this.#load(id, leave.signal);
  }

  #stop(): void {
    this.#leave?.abort();
    this.#leave = undefined;
  }

  async #load(id: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#refresh(id);
    } catch (error) {
      return this.#set({ status: "failed", error: error as Error });
    }
    if (signal.aborted) return;
    for (const { key, params } of this.#pending.of(id)) {
      const turn = this.#turn(key) ?? this.#unanswered(inputText(params.input ?? ""));
      if (turn && this.#live.has(turn.key)) continue;
      const again: Turn = turn ?? {
        key,
        input: inputText(params.input ?? ""),
        parts: [],
        status: "queued",
        itemIds: [],
      };
      if (!turn) this.#set({ turns: [...this.#snapshot.turns, again] });
      void this.#ask(again, params, key).then(() => this.#refresh(id).catch(() => undefined));
    }
    this.#set({ status: "ready", error: undefined });
    const waiting = this.#unanswered();
    if (waiting) void this.#resume(waiting, id);
    await this.#watch(id, signal);
  }

  /** Follows the turns that other tabs and devices create in the conversation. */
  async #watch(id: string, signal: AbortSignal): Promise<void> {
    try {
      for await (const handle of this.#client.conversations.follow(id, { signal })) void this.#adopt(id, handle);
    } catch (error) {
      this.#set({ error: error as Error });
      const unlisten = this.#client.onConnectionStateChange(({ status }) => {
        if (status !== "connected" || signal.aborted) return;
        unlisten();
        this.#set({ error: undefined });
        void this.#watch(id, signal);
      });
      signal.addEventListener("abort", unlisten);
    }
  }

  async #adopt(id: string, handle: ResponseHandle): Promise<void> {
    const { responseId } = handle;
    if (this.#snapshot.turns.some((turn) => turn.responseId === responseId)) return;
    await this.#refresh(id).catch(() => undefined);
    const turn = this.#unanswered();
    if (turn) return this.#follow(turn.key, () => Promise.resolve(handle));
    const ended = await handle.final().catch(() => undefined);
    const same = this.#snapshot.turns.find(({ itemIds }) => ended?.output.some((item) => itemIds.includes(item.id)));
    if (same) this.#update(same.key, { responseId, endedBy: ended?.incomplete_details?.reason ?? ended?.status });
  }

  /**
   * Returns the last turn if it has no answer and this page does not follow it. With `input`, only if the turn has that
   * input.
   */
  #unanswered(input?: string): Turn | undefined {
    const turn = this.#snapshot.turns.at(-1);
    const isOpen = turn?.status === "queued" && !this.#live.has(turn.key);
    return isOpen && (input === undefined || input === turn.input) ? turn : undefined;
  }

  /** Follows the answer to a question that was asked before the page was opened. There may be no answer. */
  async #resume({ key }: Turn, conversation: string): Promise<void> {
    await this.#follow(key, (news) => Promise.resolve(this.#client.responses.resume({ conversation }, news)));
  }

  async #ask(turn: Turn, params: TurnParams, requestId = turn.key): Promise<void> {
    await this.#follow(
      turn.key,
      async (news) => {
        const conversation = await this.#conversation();
        if (this.#live.get(turn.key)?.isStopped) throw new CancelledError("Stopped before it was sent.");
        this.#pending.add(conversation, { key: requestId, params });
        return this.#client.responses.create({ ...params, conversation, client_request_id: requestId }, news);
      },
      turn.parts,
    );
    const { id } = this.#snapshot;
    if (id !== undefined) this.#pending.remove(id, requestId);
  }

  async #follow(
    key: string,
    begin: (news: { onQueued(queue: QueuePosition): void; onRecovering(): void }) => Promise<ResponseHandle>,
    before: readonly AnswerPart[] = [],
  ): Promise<void> {
    const live: Live = { answer: new Answer(before), isRecovering: false, isStopped: false };
    this.#live.set(key, live);
    this.#paint();
    try {
      const handle = await begin({
        onQueued: (queue) => {
          live.queue = queue;
          this.#paint();
        },
        onRecovering: () => {
          live.isRecovering = true;
          this.#paint();
        },
      });
      live.handle = handle;
      if (live.isStopped) void handle.cancel();
      for await (const event of handle) {
        live.answer.take(event);
        live.isRecovering = false;
        this.#paint();
      }
      const response = await handle.final();
      this.#end(key, live, {
        status: "ended",
        parts: [...before, ...partsOf(response)],
        endedBy: response.incomplete_details?.reason ?? response.status,
        responseId: response.id,
        itemIds: [...(this.#turn(key)?.itemIds ?? []), ...response.output.map((item) => item.id)],
      });
    } catch (error) {
      const responseId = live.handle?.responseId;
      const { parts } = live.answer;
      if (error instanceof CancelledError) this.#end(key, live, { status: "ended", endedBy: "cancelled", parts });
      else this.#end(key, live, { status: "failed", error: failureOf(error), parts, responseId });
    }
  }

  #end(key: string, live: Live, change: Partial<Turn>): void {
    if (this.#live.get(key) !== live) return;
    this.#live.delete(key);
    this.#update(key, { ...change, queue: undefined });
  }

  /** Resolves to the conversation's id; creates the conversation for the first message. */
  #conversation(): Promise<string> {
    const { id } = this.#snapshot;
    if (id !== undefined) return Promise.resolve(id);
    this.#creating ??= this.#client.conversations.create().then(
      (made) => {
        this.#set({ id: made.id });
        if (this.#leave) void this.#watch(made.id, this.#leave.signal);
        return made.id;
      },
      (error: unknown) => {
        this.#creating = undefined;
        throw error;
      },
    );
    return this.#creating;
  }

  /** Fetches the newest `count` items and updates the turns. */
  async #refresh(id: string, count = Math.max(PAGE, this.#items.length)): Promise<void> {
    const items: ConversationItem[] = [];
    let hasOlder = true;
    for (let after: string | null = null; hasOlder && items.length < count; ) {
      const limit = Math.min(LONGEST_PAGE, count - items.length);
      const query = { limit, order: "desc" as const, ...(after === null ? {} : { after }) };
      const page = await this.#client.conversations.items.list(id, query);
      items.push(...page.data);
      after = page.last_id;
      hasOlder = page.has_more && after !== null;
    }
    this.#items = items.reverse();
    this.#set({ turns: merged(turnsOf(this.#items), this.#snapshot.turns), hasOlder });
  }

  /** Updates the running turns at the next frame. */
  #paint(): void {
    if (this.#isFrameDue || this.#live.size === 0) return;
    this.#isFrameDue = true;
    void nextFrame().then(() => {
      this.#isFrameDue = false;
      if (this.#live.size > 0) this.#set({ turns: this.#snapshot.turns.map((turn) => this.#painted(turn)) });
    });
  }

  #painted(turn: Turn): Turn {
    const live = this.#live.get(turn.key);
    if (!live) return turn;
    const responseId = live.handle?.responseId;
    const { status } = this.#client.connectionState;
    const isLost = responseId !== undefined && status !== "connected" && status !== "moving";
    return {
      ...turn,
      responseId,
      parts: live.answer.parts,
      status: live.isRecovering || isLost ? "recovering" : live.answer.status,
      queue: live.answer.status === "queued" ? live.queue : undefined,
    };
  }

  #add(key: string, input: TurnParams["input"]): Turn {
    const turn: Turn = { key, input: inputText(input ?? ""), parts: [], status: "queued", itemIds: [] };
    this.#set({ turns: [...this.#snapshot.turns, turn] });
    return turn;
  }

  #turn(key: string): Turn | undefined {
    return this.#snapshot.turns.find((turn) => turn.key === key);
  }

  #update(key: string, change: Partial<Turn>): void {
    this.#set({ turns: this.#snapshot.turns.map((turn) => (turn.key === key ? { ...turn, ...change } : turn)) });
  }

  #set(change: Partial<ConversationSnapshot>): void {
    const next = { ...this.#snapshot, ...change };
    this.#snapshot = { ...next, isRunning: next.turns.some(isRunning) };
    for (const listener of [...this.#listeners]) listener();
  }
}

function failureOf(error: unknown): Error {
  if (error instanceof NotFoundError && error.code === "response_not_found") {
    return new CaudalError("There is no answer to this message.", { cause: error });
  }
  return error as Error;
}
