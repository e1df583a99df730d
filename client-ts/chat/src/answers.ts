import {
  AuthenticationError,
  CancelledError,
  type FollowOptions,
  type Input,
  type InputItem,
  NotFoundError,
  type ResponseCreateParams,
  type ResponseHandle,
  ResumeExpiredError,
} from "caudal-client";
import type { LocalEngine } from "caudal-client/local";
import { contentOf } from "./answer.ts";
import type { Chat } from "./chat.ts";
import { t } from "./i18n.ts";
import { isLocal } from "./local/ids.ts";
import type { Place } from "./local/place.ts";
import { problemOf } from "./problems.ts";
import { retryUntil } from "./retry-until.ts";
import type { ServerChat } from "./server-chat.ts";
import type { Session } from "./session.ts";
import { paramsOf, schemaOf } from "./settings.ts";
import type { ChatStorage } from "./storage.ts";
import { finished, streamAnswer } from "./stream-answer.ts";
import { CONTINUE, itemsOf, joined, messageOf as questionOf } from "./transcript.ts";
import { isRunning, type Turn } from "./turn.ts";

/** The place at which a branch leaves another conversation. */
export interface Branch {
  readonly from: string | undefined;
  /** The index of the first turn that differs. */
  readonly at: number;
}

export interface Origin {
  /** `true`: the turn was asked before a reload of the page. */
  readonly isRestored?: boolean;
  /** `true`: a part of the answer was shown before. */
  readonly isResumed?: boolean;
  /** The turn that this one replaces. */
  readonly insteadOf?: Turn;
  readonly branch?: Branch | undefined;
}

export interface AnswersNeeds {
  chat: Chat;
  session: Session;
  storage: ChatStorage;
  place: Place;
  server: ServerChat;
  /** Called when the chat has a conversation, with its id. */
  onConversation(id: string, branch: Branch | undefined): void;
  /** Called when an answer that this page asked for has ended. */
  onAnswered(key: string): void;
  /** Sends turns that ran in this browser to the server. */
  join(): Promise<void>;
  refresh(): Promise<void>;
}

interface Followed {
  readonly handle: ResponseHandle;
  /** The cut answer that a continuation appends to. */
  readonly before: string;
}

/** Runs turns at the server or in this browser, and streams their answers into the chat. */
export class Answers {
  readonly #needs: AnswersNeeds;
  /** The handles of the answers that the page follows, by the key of their turn. */
  readonly #followed = new Map<string, Followed>();

  constructor(needs: AnswersNeeds) {
    this.#needs = needs;
  }

  get #chat(): Chat {
    return this.#needs.chat;
  }

  /** Stops following all answers. The generations go on. */
  leave(): void {
    this.#followed.clear();
  }

  stop(key: string): void {
    const turn = this.#chat.turn(key);
    const followed = this.#followed.get(key);
    // The model is still being loaded.
    if (!followed && turn?.loading !== undefined) return this.#fail(key, new CancelledError("Stopped."));
    this.#chat.update(key, { stopping: true });
    void followed?.handle.cancel();
  }

  /** Gets an answer to a question that was asked on this page. */
  async run(turn: Turn, origin: Origin = {}): Promise<void> {
    const { key } = turn;
    const { place } = this.#needs;
    this.#chat.update(key, { where: undefined, awaitsJoin: undefined });
    try {
      const isHere = await retryUntil(
        async () => {
          if (await place.isHere()) return true;
          if (!this.#isHandedOver(key)) await this.#prepare(key, origin);
          return false;
        },
        () => this.#isWanted(key),
        (retryAt) => this.#chat.update(key, { retryAt }),
      );
      if (this.#isHandedOver(key)) return;
      if (isHere) return await this.#runHere(turn, origin);
      const asked = { ...this.#newsOf(key), history: this.#historyOf(turn) };
      const { where, response } = await place.create(this.#params(turn), asked);
      this.#chat.update(key, where === "browser" ? { where, awaitsJoin: true } : { where });
      if (!this.#isWanted(key)) void response.cancel();
      await this.#follow(turn, response, origin.isRestored !== true);
    } catch (error) {
      this.#fail(key, error);
    }
  }

  /** Continues a turn that was running when the page was closed. */
  async pickUp(turn: Turn): Promise<void> {
    const { key, responseId, where, askedAt } = turn;
    if (responseId === undefined) return askedAt === undefined ? undefined : this.run(turn, { isRestored: true });
    if (where !== "browser") return this.#follow(turn, this.#needs.session.client.responses.resume(responseId), false);
    try {
      await this.#needs.place.exclusively(key, () => this.#resumeHere(turn, responseId));
    } catch (error) {
      this.#fail(key, error);
    }
  }

  /** Continues an answer in this browser after the network cut it. */
  async handOver(key: string): Promise<void> {
    const turn = this.#chat.turn(key);
    if (!turn || !isRunning(turn) || turn.where === "browser") return;
    const followed = this.#followed.get(key);
    this.#followed.delete(key);
    // The client sends the cancel when the connection is back.
    void followed?.handle.cancel();
    const { responseId } = turn;
    const isHeldToForm = schemaOf(this.#chat.snapshot().settings.schema) !== undefined;
    const text = isHeldToForm ? "" : turn.answer.slice(followed?.before.length ?? 0);
    const begun = { ...turn, answer: followed?.before ?? "" };
    const history = this.#historyOf(begun);
    // The figures described the server's run.
    const none = { firstTokenAt: undefined, tokensPerSecond: undefined };
    this.#chat.update(key, { thinking: undefined, calls: undefined, ...none });
    try {
      await this.#here(begun, { isResumed: true }, (engine) => {
        if (responseId === undefined) return engine.create(this.#params(turn), { history });
        return engine.handOver({ responseId, text }, this.#params(turn), { history });
      });
    } catch (error) {
      this.#fail(key, error);
    }
  }

  /** Follows the answer to a last question that another client asked before this page opened. The answer runs, or has failed. */
  async followUnanswered(): Promise<void> {
    const turn = this.#unanswered();
    const { conversation } = this.#chat;
    if (!turn || conversation === undefined || isLocal(conversation)) return;
    const handle = this.#needs.session.client.responses.resume({ conversation });
    try {
      await handle.id;
      await this.adopt(handle);
    } catch (error) {
      if (this.#unanswered()?.key === turn.key) this.#fail(turn.key, error);
    }
  }

  /** Shows a response that another client created. */
  async adopt(handle: ResponseHandle): Promise<void> {
    const responseId = await handle.id;
    const { turns } = this.#chat;
    if (turns.some((turn) => turn.responseId === responseId)) return;
    const turn = this.#unanswered();
    if (turn) {
      this.#chat.update(turn.key, { responseId });
      return this.#follow({ ...turn, responseId }, handle, false);
    }
    // The answer has ended: the items have its text, but not its figures.
    const last = turns.findLast(({ key }) => !this.#followed.has(key));
    const response = await handle.final().catch(() => undefined);
    if (last && response && contentOf(response).answer === last.answer) {
      this.#chat.update(last.key, finished(response, contentOf(response)));
      this.#chat.save();
    }
  }

  isFollowed(key: string): boolean {
    return this.#followed.has(key);
  }

  #isWanted(key: string): boolean {
    const turn = this.#chat.turn(key);
    return turn !== undefined && isRunning(turn) && !turn.stopping;
  }

  /** Whether the user has moved the turn from the server to this browser. */
  #isHandedOver(key: string): boolean {
    return this.#chat.turn(key)?.where === "browser";
  }

  /** Returns the items that the model reads before the turn, or before the rest of its answer. */
  #historyOf(turn: Turn): readonly InputItem[] {
    const before = itemsOf(this.#chat.before(turn.key));
    return turn.continuation === undefined ? before : [...before, ...itemsOf([{ ...turn, status: "done" }])];
  }

  #params(turn: Turn): ResponseCreateParams {
    const { models, model, settings, conversation } = this.#chat.snapshot();
    const question: Input = turn.attachments ? [questionOf(turn)] : turn.prompt;
    return {
      ...paramsOf(settings, this.#needs.session.chosenModel),
      ...(models.length > 1 && model !== undefined ? { model } : {}),
      conversation: conversation ?? null,
      input: turn.continuation === undefined ? question : [{ role: "developer", content: CONTINUE }],
      truncation: "auto",
      client_request_id: turn.continuation ?? turn.key,
    };
  }

  #newsOf(key: string): FollowOptions {
    return {
      onQueued: (queue) => this.#chat.update(key, { queue }),
      onRetry: ({ retryAt }) => this.#chat.update(key, { retryAt }),
      onRecovering: () => this.#chat.update(key, { recovering: true }),
    };
  }

  /** Prepares the conversation on the server so that it ends before the turn: creates or forks it, or deletes the old answer. */
  async #prepare(key: string, { insteadOf, branch }: Origin): Promise<void> {
    const { server, join } = this.#needs;
    if (isLocal(this.#chat.conversation)) await join();
    const { conversation } = this.#chat;
    if (conversation !== undefined && !isLocal(conversation)) {
      if (insteadOf) await server.deleteLastTurn(conversation, this.#chat.indexOf(key));
      return;
    }
    const { from, at } = branch ?? { from: undefined, at: 0 };
    const fork = from === undefined || isLocal(from) ? undefined : await server.fork(from, at);
    const id = fork ?? (await server.create(itemsOf(this.#chat.before(key))));
    if (this.#chat.indexOf(key) < 0) throw new CancelledError("The user began another chat.");
    if (this.#isHandedOver(key)) return;
    this.#needs.onConversation(id, branch);
  }

  #runHere(turn: Turn, origin: Origin): Promise<void> {
    const { insteadOf } = origin;
    const history = this.#historyOf(turn);
    const replaces = insteadOf?.where === "server" ? insteadOf.responseId : undefined;
    return this.#here(turn, origin, (engine) =>
      engine.create(this.#params(turn), { history, ...(replaces !== undefined && { replaces }) }),
    );
  }

  /** Runs a turn in this browser, in only one of the tabs that show the turn. */
  async #here(turn: Turn, origin: Origin, begin: (engine: LocalEngine) => ResponseHandle): Promise<void> {
    const { key } = turn;
    const { place } = this.#needs;
    const waiting = { retryAt: undefined, queue: undefined, recovering: false, stopping: false };
    this.#chat.update(key, { ...waiting, where: "browser", awaitsJoin: true });
    await place.exclusively(key, async () => {
      if (origin.isRestored && this.#showStored(key)) return;
      if (this.#chat.conversation === undefined) {
        this.#needs.onConversation(await place.newConversation(), origin.branch);
      }
      this.#chat.save();
      const engine = await place.engine((loading) => this.#chat.update(key, { loading }));
      if (!this.#isWanted(key)) return;
      this.#chat.update(key, { loading: undefined });
      await this.#follow(turn, begin(engine), !origin.isRestored && !origin.isResumed);
    });
  }

  async #resumeHere(turn: Turn, responseId: string): Promise<void> {
    const { key } = turn;
    const { place } = this.#needs;
    if (this.#showStored(key)) return;
    const run = await place.run(responseId);
    if (!isRunning(this.#chat.turn(key))) return;
    if (!run) {
      // The items contain the turn if it has joined the conversation on the server.
      this.#chat.update(key, { awaitsJoin: undefined });
      return this.#fail(key, new Error(t("unanswered")));
    }
    if (run.status === "ended") {
      const { answer } = contentOf(run);
      this.#chat.update(key, { answer, status: "stopped" });
      this.#chat.save();
      return this.#needs.onAnswered(key);
    }
    this.#chat.update(key, { answer: run.text });
    const engine = await place.engine((loading) => this.#chat.update(key, { loading }));
    if (!this.#isWanted(key)) return engine.giveUp(run);
    this.#chat.update(key, { loading: undefined });
    await this.#follow(turn, engine.resume(run), false);
  }

  /** Shows a turn as another tab has stored it, if the other tab has ended it. */
  #showStored(key: string): boolean {
    const { conversation } = this.#chat;
    const turns = conversation === undefined ? [] : this.#needs.storage.loadTurns(conversation);
    const stored = turns.find((turn) => turn.key === key);
    if (!stored || isRunning(stored)) return false;
    this.#chat.update(key, stored);
    return true;
  }

  /** Returns the running turn of another client that this page does not follow yet. */
  #unanswered(): Turn | undefined {
    return this.#chat.turns.findLast(
      (turn) => isRunning(turn) && turn.askedAt === undefined && !this.#followed.has(turn.key),
    );
  }

  /** Follows an answer to its end. `isTimed`: the answer streams as it is generated. */
  async #follow(turn: Turn, handle: ResponseHandle, isTimed: boolean): Promise<void> {
    const { key } = turn;
    const before = turn.continuation === undefined ? "" : turn.answer;
    const followed = { handle, before };
    this.#followed.set(key, followed);
    const isShown = (): boolean => this.#followed.get(key) === followed;
    const show = (change: Partial<Turn>): void => {
      if (!isShown()) return;
      const answer = change.answer === undefined ? {} : { answer: joined(before, change.answer) };
      this.#chat.update(key, { ...change, ...answer });
      if (change.responseId !== undefined) this.#chat.save();
    };
    try {
      const end = await streamAnswer(handle, isTimed, show);
      // The user has opened another conversation, or another engine has taken over. The turn still joins its own conversation.
      if (!isShown()) return void this.#needs.join().catch(() => undefined);
      show({ ...end, continuation: undefined });
      if (this.#chat.turn(key)?.awaitsJoin) this.#needs.onAnswered(key);
      else if (turn.continuation !== undefined) void this.#needs.refresh();
      else if (isTimed) this.#needs.onAnswered(key);
    } catch (error) {
      // The user has opened another conversation, or another engine has taken over.
      if (!isShown()) return;
      this.#followed.delete(key);
      await this.#recover(key, error);
    }
    if (isShown()) this.#followed.delete(key);
  }

  /** Recovers from a failure if the page can; otherwise shows it. */
  async #recover(key: string, error: unknown): Promise<void> {
    const turn = this.#chat.turn(key);
    if (!turn) return;
    if (error instanceof NotFoundError && error.code === "conversation_not_found") {
      // The server has deleted the conversation, but the page still has its turns.
      this.#chat.set({ conversation: undefined });
      return this.run(turn);
    }
    const isGone = error instanceof ResumeExpiredError || error instanceof NotFoundError;
    if (isGone && turn.responseId !== undefined) {
      const stored = await this.#needs.session.client.responses.retrieve(turn.responseId).catch(() => undefined);
      if (stored && stored.status !== "in_progress") {
        return this.#chat.update(key, finished(stored, contentOf(stored)));
      }
    }
    this.#fail(key, error);
  }

  #fail(key: string, error: unknown): void {
    // A run in this browser that has not begun will not join the conversation.
    const isLost = this.#chat.turn(key)?.responseId === undefined;
    const over = { stopping: false, retryAt: undefined, loading: undefined, ...(isLost && { awaitsJoin: undefined }) };
    // The user stopped the turn before the server had received the request.
    if (error instanceof CancelledError) this.#chat.update(key, { ...over, status: "stopped" });
    else this.#chat.update(key, { ...over, status: "failed", problem: problemOf(error) });
    if (error instanceof AuthenticationError) this.#needs.session.askForToken();
    this.#chat.save();
  }
}
