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

/** What went wrong, in words for a reader. */
export function problemOf(error: unknown): Problem {
  return {
    message: messageOf(error),
    canRetry: !(error instanceof ApiError && error.code === "context_length_exceeded"),
  };
}

function messageOf(error: unknown): string {
  if (error instanceof AuthenticationError) return "The server does not accept this access token.";
  if (error instanceof ConflictError) return "Another answer is under way in this conversation.";
  if (error instanceof RateLimitError) return `That was a little fast for the server. Try again${soon(error)}.`;
  if (error instanceof ResumeExpiredError || error instanceof NotFoundError) {
    return "The server no longer has this answer.";
  }
  if (error instanceof ApiError && error.code === "context_length_exceeded") {
    return "This conversation has grown longer than the model can read. Start a new chat to go on.";
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
