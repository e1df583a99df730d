import {
  ApiError,
  AuthenticationError,
  ConflictError,
  ConnectionError,
  NotFoundError,
  RateLimitError,
  ResponseFailedError,
  ResumeExpiredError,
  ServerError,
} from "caudal-client";
import type { Problem } from "./turn.ts";

export const REFUSED = "The server does not accept this key or client secret.";

/** What went wrong, in words for a reader. `isFirst`: nothing was said in the conversation before. */
export function problemOf(error: unknown, { isFirst }: { isFirst: boolean }): Problem {
  if (isTooLong(error)) return { message: tooLong(error.message, isFirst), canRetry: false };
  return { message: messageOf(error), canRetry: true };
}

function isTooLong(error: unknown): error is ApiError | ResponseFailedError {
  const isCoded = error instanceof ApiError || error instanceof ResponseFailedError;
  return isCoded && error.code === "context_length_exceeded";
}

/** The server's message has both numbers. */
function tooLong(said: string, isFirst: boolean): string {
  const [, most, tokens] = /context length is (\d+) tokens.* it has (\d+) tokens/.exec(said) ?? [];
  const numbers = most === undefined || tokens === undefined ? "" : ` (${grouped(tokens)} of ${grouped(most)} tokens)`;
  if (isFirst) return `This message is longer than the model can read${numbers}. Shorten it.`;
  return `This conversation has grown longer than the model can read${numbers}. Start a new chat to go on.`;
}

function grouped(digits: string): string {
  return Number(digits).toLocaleString("en");
}

function messageOf(error: unknown): string {
  if (error instanceof AuthenticationError) return REFUSED;
  if (error instanceof ConflictError) return "Another answer is under way in this conversation.";
  if (error instanceof RateLimitError) return `That was a little fast for the server. Try again${soon(error)}.`;
  if (error instanceof ResumeExpiredError || error instanceof NotFoundError) {
    return "The server no longer has this answer.";
  }
  if (error instanceof ServerError && error.status === 503) {
    return `The server is busy just now. Try again${soon(error)}.`;
  }
  if (error instanceof ConnectionError) return "The connection to the server was lost and has not come back.";
  if (error instanceof ResponseFailedError) return `The model could not finish this answer: ${error.message}`;
  return error instanceof Error ? error.message : "Something went wrong.";
}

function soon({ retryAfterMs }: ApiError): string {
  if (retryAfterMs === undefined) return " in a moment";
  const seconds = Math.max(1, Math.ceil(retryAfterMs / 1000));
  if (seconds >= 120) return ` in ${Math.ceil(seconds / 60)} minutes`;
  return seconds === 1 ? " in a second" : ` in ${seconds} seconds`;
}
