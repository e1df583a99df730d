/** What is asked of a WebSocket: the part of the standard that browsers, Node 22 and the package `ws` share. */
export interface WebSocketLike {
  readonly protocol: string;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { code: number; reason: string }) => void): void;
  addEventListener(type: "error", listener: () => void): void;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

export const SUBPROTOCOL = "caudal.responses.v1";
export const TOKEN_SUBPROTOCOL_PREFIX = "openai-insecure-api-key.";

/** What a close code tells a client to do. */
export type CloseVerdict =
  /** Connect again and resume. */
  | "reconnect"
  /** As `reconnect`, but not at once: the server is short of something. */
  | "later"
  /** What was sent last is too large to be taken; sending it again would not help. */
  | "too_large"
  /** Do not connect again: it would end the same way. */
  | "fail";

export function closeVerdict(code: number): CloseVerdict {
  if (code === 1009) return "too_large";
  if (code === 1008 || (code >= 4500 && code <= 4999)) return "fail";
  return code === 1013 ? "later" : "reconnect";
}
