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
import type { LocalUnsupportedError } from "caudal-client/local";
import { currentLanguage, t } from "./i18n.ts";
import type { Problem } from "./turn.ts";

/** Describes an error for the user. */
export function problemOf(error: unknown): Problem {
  if (isTooLong(error)) return { message: tooLong(error.message), canRetry: false };
  return { message: messageOf(error), canRetry: true };
}

function isTooLong(error: unknown): error is ApiError | ResponseFailedError {
  const isCoded = error instanceof ApiError || error instanceof ResponseFailedError;
  return isCoded && error.code === "context_length_exceeded";
}

/** Builds the message for a too long prompt. Reads both numbers from the server's message. */
function tooLong(said: string): string {
  const [, most, tokens] = /context length is (\d+) tokens.* it has (\d+) tokens/.exec(said) ?? [];
  const numbers =
    most === undefined || tokens === undefined ? "" : t("ofTokens", { tokens: grouped(tokens), most: grouped(most) });
  return t("messageTooLong", { numbers });
}

function grouped(digits: string): string {
  return Number(digits).toLocaleString(currentLanguage());
}

function messageOf(error: unknown): string {
  if (error instanceof AuthenticationError) return t("refused");
  if (error instanceof ConflictError) return t("conflict");
  if (error instanceof RateLimitError) return t("tooFast", { soon: soon(error) });
  if (error instanceof ResumeExpiredError || error instanceof NotFoundError) return t("answerGone");
  if (error instanceof ServerError && error.status === 503) return t("busy", { soon: soon(error) });
  if (error instanceof ConnectionError) return t("connectionLost");
  if (isUnsupported(error)) return t("unsupportedHere", { field: error.param });
  if (error instanceof ResponseFailedError) return t("modelFailed", { message: error.message });
  return error instanceof Error ? error.message : t("wrong");
}

/** Checks by name, because the class belongs to the engine, which is loaded lazily. */
function isUnsupported(error: unknown): error is LocalUnsupportedError {
  return error instanceof Error && error.name === "LocalUnsupportedError";
}

function soon({ retryAfterMs }: ApiError): string {
  if (retryAfterMs === undefined) return t("inAMoment");
  const seconds = Math.max(1, Math.ceil(retryAfterMs / 1000));
  if (seconds >= 120) return t("inMinutes", { n: Math.ceil(seconds / 60) });
  return seconds === 1 ? t("inASecond") : t("inSeconds", { n: seconds });
}
