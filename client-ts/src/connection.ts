/** The interface of a connection to the server. A connection never reconnects: it ends once and reports how. */

import type { Message } from "./encode.ts";
import type { ApiError } from "./errors.ts";

export interface Connection {
  /** The server's id of the connection, known after the server's greeting. */
  readonly id: string | undefined;
  readonly limits: Limits;
  /**
   * `true`: the server drains or the connection's token expires, so new runs go to another connection. Set by the link.
   */
  leaving: boolean;
  /** Sends an encoded message. */
  send(text: string): void;
  /** Checks whether the peer still answers, and ends the connection if not. Called after a sleep. */
  check(): void;
  close(): void;
  /** Ends the connection because it is silent or its content cannot be trusted any more. */
  abandon(reason: string): void;
}

export interface Limits {
  /** The number of responses that the connection carries at a time. */
  lanes: number;
  /** The longest message, in bytes. */
  messageBytes: number;
}

export interface Ending {
  code: number;
  reason: string;
  /** Whether the server's greeting had arrived. */
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

/** The limits assumed of a server that names none: OpenAI's 16 responses at a time, and no bound on messages. */
export const NO_LIMITS: Limits = { lanes: 16, messageBytes: Number.POSITIVE_INFINITY };

/** The connection ended without a close code of the server. */
export const NO_STATUS = 1006;
/** The server refuses the client's token or address, or the token has expired. */
export const REFUSED = 1008;
/** The server refused the last message for its size; the client does not send it again. */
export const TOO_LARGE = 1009;
/** The server is short of a resource: reconnect, but not at once. */
export const TRY_LATER = 1013;

/** Whether another connection would end in the same way. */
export function isFinal(code: number): boolean {
  return code === REFUSED || (code >= 4500 && code <= 4999);
}
