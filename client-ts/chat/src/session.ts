import { AuthenticationError, CaudalClient, type ConnectionState, type Model } from "caudal-client";
import type { ChatStorage } from "./storage.ts";

export interface SessionState {
  readonly connection: ConnectionState;
  readonly models: readonly Model[];
  /** The id of the chosen model. */
  readonly model: string | undefined;
  /** `true`: the server asks for a token, or for another one. */
  readonly needsToken: boolean;
  /** `true`: the server has refused the last token. */
  readonly tokenRefused: boolean;
}

/** The connection to the server, its token, and the server's models. */
export class Session {
  #state: SessionState = {
    connection: { status: "idle" },
    models: [],
    model: undefined,
    needsToken: false,
    tokenRefused: false,
  };
  #client: CaudalClient;
  readonly #server: URL;
  readonly #storage: ChatStorage;
  readonly #listener: { onChange(): void; onConnected(): void };

  constructor(server: URL, storage: ChatStorage, listener: { onChange(): void; onConnected(): void }) {
    this.#server = server;
    this.#storage = storage;
    this.#listener = listener;
    this.#client = this.#newClient();
  }

  get client(): CaudalClient {
    return this.#client;
  }

  get state(): SessionState {
    return this.#state;
  }

  get chosenModel(): Model | undefined {
    return this.#state.models.find(({ id }) => id === this.#state.model);
  }

  open(): void {
    const client = this.#client;
    this.#set({ connection: client.connectionState });
    client.onConnectionStateChange((connection) => {
      if (client !== this.#client) return;
      const refused = connection.status === "failed" && connection.error instanceof AuthenticationError;
      this.#set({ connection });
      if (refused) this.askForToken();
      if (connection.status !== "connected") return;
      this.#set({ needsToken: false, tokenRefused: false });
      void this.#learnModels(client);
      this.#listener.onConnected();
    });
    client.connect();
  }

  close(): void {
    this.#client.close();
  }

  /** Opens a new connection with this token. */
  authorize(token: string): void {
    this.#storage.saveToken(token);
    this.#set({ tokenRefused: false });
    this.#client.close();
    this.#client = this.#newClient();
  }

  askForToken(): void {
    this.#set({ needsToken: true, tokenRefused: this.#storage.token() !== undefined });
  }

  chooseModel(id: string): void {
    this.#storage.saveModel(id);
    this.#set({ model: id });
  }

  async #learnModels(client: CaudalClient): Promise<void> {
    // Without the list, the page works with the server's default model.
    const models = await client.models.list().catch(() => this.#state.models);
    const wanted = this.#state.model ?? this.#storage.model();
    this.#set({ models, model: (models.find(({ id }) => id === wanted) ?? models[0])?.id });
  }

  #newClient(): CaudalClient {
    const token = this.#storage.token();
    return new CaudalClient({
      url: this.#server,
      ...(token === undefined ? {} : { token }),
      // The user decides how long to wait.
      reconnect: { giveUpAfterMs: Number.POSITIVE_INFINITY, maxDelayMs: 8_000 },
      maxRetries: 8,
    });
  }

  #set(change: Partial<SessionState>): void {
    this.#state = { ...this.#state, ...change };
    this.#listener.onChange();
  }
}
