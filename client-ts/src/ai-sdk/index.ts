/**
 * A chat transport for AI SDK 6 and 7: `useChat({ id, transport })` on Caudal's conversations, without an API route.
 */

import type { ChatTransport, UIMessage } from "ai";
import type { CaudalClient } from "../client.ts";
import type { TurnParams } from "../conversations.ts";
import { ConnectionError, DetachedError, NotFoundError } from "../errors.ts";
import type { ResponseHandle } from "../handle.ts";
import type { InputItem } from "../items.ts";
import type { FollowOptions } from "../responses.ts";
import type { FunctionTool, ResponseObject } from "../types.ts";
import { type ChatStorage, Chats } from "./chats.ts";
import { CallChunks, type Chunk, chunksOf, finishChunk } from "./chunks.ts";
import { argumentsOf, messagesOf, openCalls, outputItem, resultOf, textOf, turnSoFar } from "./messages.ts";

export type { ChatStorage } from "./chats.ts";

/** A function that the model may call. */
export interface ChatTool {
  description?: string;
  /** A JSON Schema of the arguments. */
  parameters?: Record<string, unknown>;
  strict?: boolean;
  /**
   * Runs the call. Without it the page runs the call, in `onToolCall` or after a click, and passes the result to
   * `addToolOutput`; set `sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls`.
   */
  // biome-ignore lint/suspicious/noExplicitAny: tools take arguments of any type
  execute?: (args: any, call: { callId: string }) => unknown;
  /** Asks the user before the call runs: a part in state `approval-requested`, answered by `addToolApprovalResponse`. */
  needsApproval?: boolean;
}

export interface CaudalChatTransportOptions {
  client: CaudalClient;
  /**
   * The settings of every request, such as model, instructions and temperature. The `body` of a call overrides them.
   */
  params?: TurnParams;
  /** The functions by name. */
  tools?: Readonly<Record<string, ChatTool>>;
  /**
   * The effect of an aborted stream on its generation. `useChat` aborts when its component is unmounted, so the default is
   * "detach": the generation goes on, and `resume` finds it. With "cancel", `stop()` of `useChat` ends the generation.
   */
  onAbort?: "detach" | "cancel";
  /**
   * The store of each chat's conversation id. Default: `localStorage`, if the platform has it. A chat whose own id is a
   * conversation's (`conv_…`) is not stored.
   */
  storage?: ChatStorage;
}

type SendOptions<M extends UIMessage> = Parameters<ChatTransport<M>["sendMessages"]>[0];

/** The stream of one chat. */
interface Stream {
  options: FollowOptions;
  params: TurnParams;
  conversation: string;
  chatId: string;
  /** The id of the message that the stream continues, if it continues one. */
  messageId: string | undefined;
  /** The chunks of the message that precede the running response. */
  before?: readonly Chunk[] | undefined;
  controller: ReadableStreamDefaultController<Chunk>;
}

export class CaudalChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  /** A resumed stream begins with the message's first chunk. */
  readonly resumeStreamIsReplay = true;
  readonly #options: CaudalChatTransportOptions;
  readonly #client: CaudalClient;
  readonly #chats: Chats;
  /** The running response of each chat. */
  readonly #running = new Map<string, ResponseHandle>();

  constructor(options: CaudalChatTransportOptions) {
    this.#options = options;
    this.#client = options.client;
    this.#chats = new Chats(options.client, options.storage);
  }

  /** Fetches the messages of a chat, for `useChat({ messages })`. Empty for a chat without a conversation. */
  async loadMessages(chatId: string): Promise<M[]> {
    const conversation = this.#chats.conversationOf(chatId);
    if (conversation === undefined) return [];
    return (await messagesOf(this.#client.conversations, conversation)) as M[];
  }

  /** Cancels the running response of a chat, even if another client created it. */
  async stop(chatId: string): Promise<void> {
    const running = this.#running.get(chatId);
    if (running) return running.cancel();
    const active = await this.#active(chatId);
    if (active !== undefined) await this.#client.responses.cancel(active);
  }

  sendMessages(options: SendOptions<M>): Promise<ReadableStream<Chunk>> {
    return this.#send(options).catch((error: unknown) => Promise.reject(streamError(error)));
  }

  async #send(options: SendOptions<M>): Promise<ReadableStream<Chunk>> {
    const { chatId, messages, body } = options;
    const params = { ...this.#options.params, ...this.#tools(), ...(body as TurnParams | undefined) };
    const last = messages.at(-1);
    if (last?.role === "assistant" && options.trigger === "submit-message") {
      const conversation = await this.#chats.open(chatId);
      return this.#stream(options, { chatId, conversation, params, messageId: last.id }, (stream) => {
        return this.#answerCalls(stream, last);
      });
    }
    const questions = messages.filter(({ role }) => role === "user");
    const question = questions.at(-1);
    const input = question ? textOf(question) : "";
    // A message that replaces another one, and a regenerated answer, continue from an earlier place.
    const isNew = options.trigger === "submit-message" && options.messageId === undefined;
    const { conversation, isStored } = isNew
      ? { conversation: await this.#chats.open(chatId), isStored: false }
      : await this.#chats.rewind(chatId, questions.length, options.trigger === "regenerate-message");
    return this.#stream(options, { chatId, conversation, params, messageId: undefined }, (stream) => {
      const settings = { ...params, conversation, ...(isStored ? {} : { input }) };
      return Promise.resolve(this.#client.responses.create(settings, stream.options));
    });
  }

  async reconnectToStream(options: {
    chatId: string;
    abortSignal?: AbortSignal;
  }): Promise<ReadableStream<Chunk> | null> {
    const { chatId } = options;
    const conversation = this.#chats.conversationOf(chatId);
    const active = await this.#active(chatId);
    if (active === undefined || conversation === undefined) return null;
    const params = { ...this.#options.params, ...this.#tools() };
    const before = await turnSoFar(this.#client.conversations, conversation);
    const stream = { chatId, conversation, params, messageId: before?.messageId, before: before?.chunks };
    return this.#stream(options, stream, ({ options: following }) => {
      return Promise.resolve(this.#client.responses.resume(active, following));
    });
  }

  /** Resolves to the id of the chat's running response, if there is one. */
  async #active(chatId: string): Promise<string | undefined> {
    const conversation = this.#chats.conversationOf(chatId);
    if (conversation === undefined) return undefined;
    for (const target of [this.#chats.responseOf(chatId), { conversation }]) {
      if (target === undefined) continue;
      try {
        const id = typeof target === "string" ? target : await this.#idOf(target.conversation);
        const { status } = await this.#client.responses.retrieve(id);
        if (status === "in_progress" || status === "queued") return id;
      } catch (error) {
        if (!(error instanceof NotFoundError)) throw error;
      }
    }
    return undefined;
  }

  async #idOf(conversation: string): Promise<string> {
    const leave = new AbortController();
    const handle = this.#client.responses.resume({ conversation }, { signal: leave.signal });
    try {
      return await handle.id;
    } finally {
      leave.abort();
    }
  }

  #stream(
    { abortSignal }: { abortSignal?: AbortSignal | undefined },
    about: Omit<Stream, "options" | "controller">,
    begin: (stream: Stream) => Promise<ResponseHandle>,
  ): ReadableStream<Chunk> {
    const left = new AbortController();
    return new ReadableStream<Chunk>({
      cancel: () => left.abort(),
      start: async (controller) => {
        const options: FollowOptions = {
          onQueued: (data) => controller.enqueue({ type: "data-queue", id: "queue", data, transient: true }),
        };
        const stream: Stream = { ...about, options, controller };
        const abort = (): void => {
          if (this.#options.onAbort === "cancel") void this.#running.get(about.chatId)?.cancel();
          else left.abort();
        };
        options.signal = left.signal;
        if (abortSignal?.aborted) abort();
        abortSignal?.addEventListener("abort", abort);
        try {
          await this.#write(stream, await begin(stream), left.signal);
          controller.close();
        } catch (error) {
          controller.error(streamError(error));
        } finally {
          abortSignal?.removeEventListener("abort", abort);
          this.#running.delete(about.chatId);
        }
      },
    });
  }

  /** Writes a message: a response, and the responses to the results of calls that run here. */
  async #write(stream: Stream, first: ResponseHandle, left: AbortSignal): Promise<void> {
    const { controller, chatId } = stream;
    for (let handle = first, isFirst = true; ; isFirst = false) {
      this.#running.set(chatId, handle);
      const calls = new CallChunks();
      for await (const event of handle) {
        if (left.aborted) break;
        if (event.type === "response.created") {
          this.#chats.follow(chatId, event.response_id);
          const messageId = stream.messageId ?? event.response_id;
          const start: Chunk = { type: "start", messageId, messageMetadata: { responseId: event.response_id } };
          const begin = isFirst ? [start, ...(stream.before ?? [])] : [];
          for (const chunk of begin) controller.enqueue(chunk);
          controller.enqueue({ type: "start-step" });
        }
        for (const chunk of [...chunksOf(event), ...calls.take(event)]) controller.enqueue(chunk);
      }
      const response = await handle.final();
      for (const { call_id, name } of this.#callsOf(response)) {
        if (!this.#options.tools?.[name]?.needsApproval) continue;
        controller.enqueue({ type: "tool-approval-request", approvalId: `approval_${call_id}`, toolCallId: call_id });
      }
      const outputs = await this.#runCalls(response, controller);
      controller.enqueue({ type: "finish-step" });
      if (!outputs) {
        if (response.incomplete_details?.reason === "cancelled") controller.enqueue({ type: "abort" });
        return controller.enqueue(finishChunk(response));
      }
      const { params, conversation } = stream;
      handle = this.#client.responses.create({ ...params, conversation, input: outputs }, stream.options);
    }
  }

  #callsOf(response: ResponseObject): { call_id: string; name: string; arguments: string }[] {
    if (response.status !== "completed") return [];
    return response.output.flatMap((item) => (item.type === "function_call" ? [item] : []));
  }

  /** Runs the calls of a response. Runs none if the page must execute one of them or the user must approve it. */
  async #runCalls(
    response: ResponseObject,
    controller: ReadableStreamDefaultController<Chunk>,
  ): Promise<InputItem[] | undefined> {
    const calls = this.#callsOf(response);
    const runsAll = calls.every(({ name }) => {
      const tool = this.#options.tools?.[name];
      return tool?.execute && !tool.needsApproval;
    });
    if (calls.length === 0 || !runsAll) return undefined;
    return Promise.all(
      calls.map(({ call_id, name, arguments: json }) =>
        this.#runCall(call_id, name, () => JSON.parse(json), controller),
      ),
    );
  }

  async #runCall(
    callId: string,
    name: string,
    args: () => unknown,
    controller: ReadableStreamDefaultController<Chunk>,
  ): Promise<InputItem> {
    try {
      const output: unknown = await this.#options.tools?.[name]?.execute?.(args(), { callId });
      controller.enqueue({ type: "tool-output-available", toolCallId: callId, output: output ?? null });
      return outputItem(callId, output);
    } catch (error) {
      const errorText = error instanceof Error ? error.message : String(error);
      controller.enqueue({ type: "tool-output-error", toolCallId: callId, errorText });
      return outputItem(callId, { error: errorText });
    }
  }

  /** Continues a message whose calls have results, or the user's approval or denial. */
  async #answerCalls(
    { params, conversation, options, controller }: Stream,
    answer: UIMessage,
  ): Promise<ResponseHandle> {
    const calls = openCalls(answer);
    const input = await Promise.all(
      calls.map((call): InputItem | Promise<InputItem> => {
        const { toolCallId, toolName, approval } = call;
        const isDenied = call.state === "approval-responded" && approval?.approved === false;
        if (isDenied) controller.enqueue({ type: "tool-output-denied", toolCallId });
        const result = resultOf(call);
        return result ?? this.#runCall(toolCallId, toolName, () => argumentsOf(call), controller);
      }),
    );
    return this.#client.responses.create({ ...params, conversation, input }, options);
  }

  #tools(): { tools?: FunctionTool[] } {
    const { tools } = this.#options;
    if (!tools) return {};
    return {
      tools: Object.entries(tools).map(([name, { description, parameters, strict }]): FunctionTool => {
        const described = {
          ...(description === undefined ? {} : { description }),
          ...(strict === undefined ? {} : { strict }),
        };
        return { type: "function", name, parameters: parameters ?? { type: "object", properties: {} }, ...described };
      }),
    };
  }
}

/**
 * Maps an error to the one that AI SDK expects: `AbortError` for an aborted stream, a `TypeError` with "network" for a
 * lost network, which makes AI SDK resume.
 */
function streamError(error: unknown): unknown {
  if (error instanceof DetachedError) return new DOMException("The stream was aborted.", "AbortError");
  if (error instanceof ConnectionError) return new TypeError(`network: ${error.message}`, { cause: error });
  return error;
}
