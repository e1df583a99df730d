import { AbstractChat, type ChatInit, type ChatState, type UIMessage } from "ai6";

class State<M extends UIMessage> implements ChatState<M> {
  status: ChatState<M>["status"] = "ready";
  error: Error | undefined;
  messages: M[];

  constructor(messages: M[] = []) {
    this.messages = messages;
  }

  pushMessage = (message: M): void => {
    this.messages = [...this.messages, message];
  };

  popMessage = (): void => {
    this.messages = this.messages.slice(0, -1);
  };

  replaceMessage = (index: number, message: M): void => {
    this.messages = this.messages.map((each, at) => (at === index ? structuredClone(message) : each));
  };

  snapshot = <T>(value: T): T => structuredClone(value);
}

/** The chat of AI SDK 6, made as its framework packages do. */
export class Chat6<M extends UIMessage = UIMessage> extends AbstractChat<M> {
  constructor({ messages, ...init }: ChatInit<M>) {
    super({ ...init, state: new State(messages) });
  }
}
