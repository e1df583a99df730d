export type TurnStatus =
  /** Asked; no part of the answer has arrived yet. */
  | "waiting"
  | "streaming"
  | "done"
  /** Stopped by the user, or by the server because no client followed. */
  | "stopped"
  /** Ended by a limit of the server or the model. */
  | "cut"
  | "failed";

export interface Problem {
  message: string;
  canRetry: boolean;
}

/** The model's reasoning before the answer. */
export interface Thinking {
  readonly text: string;
  /** The time that the reasoning took, once it is over; undefined if it was not measured. */
  readonly ms?: number;
  readonly over: boolean;
}

/** A function that the model called. */
export interface Call {
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
  /** `true`: the arguments are complete. */
  readonly done: boolean;
  /** The function's result. */
  readonly output?: string;
}

/** A text file, or a long pasted text, that is sent with a message. */
export interface Attachment {
  readonly name: string;
  readonly text: string;
}

/** A question and its answer. */
export interface Turn {
  /**
   * The turn's id on this page, and its request's idempotency key: a reload before the server's first event sends the request
   * again, but the server runs it once.
   */
  readonly key: string;
  readonly prompt: string;
  readonly attachments?: readonly Attachment[] | undefined;
  readonly responseId?: string;
  readonly status: TurnStatus;
  readonly answer: string;
  readonly thinking?: Thinking | undefined;
  readonly calls?: readonly Call[] | undefined;
  readonly problem?: Problem;
  readonly queue?: { position: number; estimatedWaitMs: number | undefined } | undefined;
  /** When the request is sent again, because the server had no room (as `Date.now()` counts). */
  readonly retryAt?: number | undefined;
  readonly stopping?: boolean;
  /** `true`: the replica that ran the turn is lost, and another one takes over. */
  readonly recovering?: boolean;
  /** The idempotency key of a request that continues the answer. */
  readonly continuation?: string | undefined;
  readonly askedAt?: number;
  readonly firstTokenAt?: number | undefined;
  readonly tokensPerSecond?: number | undefined;
  readonly tokens?: number;
  /** The number of tokens of prompt and answer together. */
  readonly totalTokens?: number;
  /** `true`: the server had the whole prompt in its cache. */
  readonly cached?: boolean;
  readonly where?: "server" | "browser" | undefined;
  /** The loaded fraction of the model, from 0 to 1, while the turn waits for the engine in the browser. */
  readonly loading?: number | undefined;
  /** `true`: the turn ran in this browser, and the server does not have it yet. */
  readonly awaitsJoin?: boolean | undefined;
  /** `true`: the server began the answer, and this browser continued it. */
  readonly wasHandedOver?: boolean;
  /** The number of the oldest turns that were left out of the prompt because they did not fit. */
  readonly droppedTurns?: number | undefined;
}

export function isRunning(turn: Turn | undefined): boolean {
  return turn?.status === "waiting" || turn?.status === "streaming";
}

export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `chat_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
