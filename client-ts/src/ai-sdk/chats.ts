/** Maps chats to conversations, and finds the place in a conversation at which the next message goes. */

import type { CaudalClient } from "../client.ts";
import { isRecord } from "../errors.ts";

/** `localStorage`, or an object with the same methods. */
export interface ChatStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

interface Chat {
  conversation: string;
  /** The response that was followed last. */
  response?: string;
}

export class Chats {
  readonly #client: CaudalClient;
  readonly #storage: ChatStorage | undefined;
  readonly #known = new Map<string, Chat>();

  constructor(client: CaudalClient, storage?: ChatStorage) {
    this.#client = client;
    this.#storage = storage ?? localStorageOf();
  }

  conversationOf(chatId: string): string | undefined {
    return this.#chat(chatId)?.conversation;
  }

  responseOf(chatId: string): string | undefined {
    return this.#chat(chatId)?.response;
  }

  /** Resolves to the conversation of a chat; creates it if there is none. */
  async open(chatId: string): Promise<string> {
    const conversation = this.conversationOf(chatId) ?? (await this.#client.conversations.create()).id;
    this.#keep(chatId, { conversation });
    return conversation;
  }

  follow(chatId: string, response: string): void {
    const chat = this.#chat(chatId);
    if (chat) this.#keep(chatId, { ...chat, response });
  }

  /**
   * Goes back to question number `question` (from 1). If `keepsQuestion` is set and the question is the last one,
   * deletes its answer; otherwise the chat goes on in a fork. `isStored`: whether the conversation still has the
   * question.
   */
  async rewind(
    chatId: string,
    question: number,
    keepsQuestion: boolean,
  ): Promise<{ conversation: string; isStored: boolean }> {
    const conversation = await this.open(chatId);
    const { items } = this.#client.conversations;
    const questions: string[] = [];
    const answer: string[] = [];
    for await (const item of items.all(conversation, { order: "asc", limit: 100 })) {
      if (item.type === "message" && item.role === "user") {
        questions.push(item.id);
        answer.length = 0;
      } else answer.unshift(item.id);
    }
    const before = questions[question - 1];
    if (before === undefined) return { conversation, isStored: false };
    if (keepsQuestion && question === questions.length) {
      for (const item of answer) await items.delete(conversation, item);
      return { conversation, isStored: true };
    }
    const fork = await this.#client.conversations.fork(conversation, { before });
    this.#keep(chatId, { conversation: fork.id });
    return { conversation: fork.id, isStored: false };
  }

  #chat(chatId: string): Chat | undefined {
    const known = this.#known.get(chatId) ?? this.#stored(chatId);
    return known ?? (chatId.startsWith("conv_") ? { conversation: chatId } : undefined);
  }

  #stored(chatId: string): Chat | undefined {
    try {
      const value: unknown = JSON.parse(this.#storage?.getItem(nameOf(chatId)) ?? "null");
      if (!isRecord(value) || typeof value["conversation"] !== "string") return undefined;
      const { conversation, response } = value;
      return { conversation, ...(typeof response === "string" ? { response } : {}) };
    } catch {
      return undefined;
    }
  }

  #keep(chatId: string, chat: Chat): void {
    this.#known.set(chatId, chat);
    try {
      this.#storage?.setItem(nameOf(chatId), JSON.stringify(chat));
    } catch {
      // The storage is full or forbidden, so a reload begins a new conversation.
    }
  }
}

function nameOf(chatId: string): string {
  return `caudal:chat:${chatId}`;
}

/** Returns `localStorage`. Reading the property throws in a page that may not store anything. */
function localStorageOf(): ChatStorage | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}
