/** Which conversation a chat is, and where in it the next message goes. */

import type { CaudalClient } from "../client.ts";
import { isRecord } from "../errors.ts";

/** `localStorage`, or what has its methods. */
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

  /** The conversation of a chat, made if there is none. */
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
   * Goes back to the question of that number (from 1). If an answer is wanted and the question is the last one, only its answer is
   * taken back; else the chat goes on in a fork. `isStored` says whether the conversation has the question already.
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
      // Full or forbidden: a reload begins a new conversation.
    }
  }
}

function nameOf(chatId: string): string {
  return `caudal:chat:${chatId}`;
}

/** Reading the property throws where a page may not store anything. */
function localStorageOf(): ChatStorage | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}
