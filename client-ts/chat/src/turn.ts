export type TurnStatus =
  /** Asked, and nothing of the answer is here yet. */
  | "waiting"
  | "streaming"
  | "done"
  /** Stopped by the reader, or by the server when nobody followed. */
  | "stopped"
  /** Ended by a limit of the server or the model. */
  | "cut"
  | "failed";

export interface Problem {
  message: string;
  canRetry: boolean;
}

/** What the model thought before it answered. */
export interface Thinking {
  readonly text: string;
  /** How long it took, once it is over; unknown when it was not seen. */
  readonly ms?: number;
  readonly over: boolean;
}

/** A function that the model called. */
export interface Call {
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
  /** The arguments are whole. */
  readonly done: boolean;
  /** The function's result. */
  readonly output?: string;
}

/** A text file, or a long text that was pasted, that goes with a message. */
export interface Attachment {
  readonly name: string;
  readonly text: string;
}

/** A question and its answer. */
export interface Turn {
  /** Names the turn here and is its request's idempotency key, so that a reload before the server's first word asks once. */
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
  /** The server had no room; it is asked again then (as `Date.now()` counts). */
  readonly retryAt?: number | undefined;
  readonly stopping?: boolean;
  /** The replica that ran it is lost, and another one takes over. */
  readonly recovering?: boolean;
  /** The idempotency key of a request that continues the answer. */
  readonly continuation?: string | undefined;
  readonly askedAt?: number;
  readonly firstTokenAt?: number | undefined;
  readonly tokensPerSecond?: number | undefined;
  readonly tokens?: number;
  /** Tokens of the prompt and the answer together. */
  readonly totalTokens?: number;
  /** The server had the whole prompt in its cache. */
  readonly cached?: boolean;
  readonly where?: "server" | "browser" | undefined;
  /** The part of the model that is loaded, while the turn waits for the engine in the browser. */
  readonly loading?: number | undefined;
  /** The turn ran in this browser, and the server does not have it yet. */
  readonly awaitsJoin?: boolean | undefined;
  /** The server began the answer, and this browser went on with it. */
  readonly wasHandedOver?: boolean;
  /** Older turns that the model was not given, for want of room. */
  readonly droppedTurns?: number | undefined;
}

export function isRunning(turn: Turn | undefined): boolean {
  return turn?.status === "waiting" || turn?.status === "streaming";
}

export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `chat_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
