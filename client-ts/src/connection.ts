/** A way to the server and back. It never reconnects: it ends once and says how. */

import type { Message } from "./encode.ts";
import type { ApiError } from "./errors.ts";

export interface Connection {
  /** The server's name for the connection, once it has greeted. */
  readonly id: string | undefined;
  readonly limits: Limits;
  /** The server leaves, or the connection's token ends: nothing new is given to it. Set by the link. */
  leaving: boolean;
  /** Sends an encoded message. */
  send(text: string): void;
  /** Finds out within a second whether the peer is still there, and ends if not. For after a sleep. */
  check(): void;
  close(): void;
  /** Gives the connection up because its content cannot be trusted any more. */
  abandon(reason: string): void;
}

export interface Limits {
  /** Responses at a time. */
  lanes: number;
  /** The longest message, in bytes. */
  messageBytes: number;
}

export interface Ending {
  code: number;
  reason: string;
  /** Whether the server's greeting had come. */
  wasReady: boolean;
  /** The last error that was about the connection and not about a response. */
  error: ApiError | undefined;
}

export interface ConnectionListener {
  ready(connection: Connection): void;
  message(connection: Connection, message: Message): void;
  draining(connection: Connection, reconnectAfterMs: number): void;
  ended(connection: Connection, ending: Ending): void;
}

/** What is assumed of a server that names no limits: OpenAI's 16 responses at a time, and no bound on messages. */
export const NO_LIMITS: Limits = { lanes: 16, messageBytes: Number.POSITIVE_INFINITY };

/** Close codes that tell a client more than to connect again and resume. */
export const NO_STATUS = 1006;
/** The server refuses who or where the client is. */
export const REFUSED = 1008;
/** The server refused the last message for its size; the client does not send it again. */
export const TOO_LARGE = 1009;
/** Connect again, but not at once: the server is short of something. */
export const TRY_LATER = 1013;

/** Whether another connection would end in the same way. */
export function isFinal(code: number): boolean {
  return code === REFUSED || (code >= 4500 && code <= 4999);
}
