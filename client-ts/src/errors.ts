/** The errors that this package throws, all subclasses of `CaudalError`. */

import type { ResponseObject } from "./types.ts";

export class CaudalError extends Error {
  override name = "CaudalError";
}

/** The `error` object of an answer of the server. */
export interface ApiErrorBody {
  code: string;
  message: string;
  param: string | null;
}

/** The server answered with an error. */
export class ApiError extends CaudalError {
  override name = "ApiError";
  readonly status: number;
  readonly code: string;
  /** The field of the request that is at fault, if the server named one. */
  readonly param: string | null;
  /** The time to wait before the same request may be tried again, if the server named a time. */
  readonly retryAfterMs: number | undefined;

  constructor(status: number, body: ApiErrorBody, retryAfterMs?: number) {
    super(body.message);
    this.status = status;
    this.code = body.code;
    this.param = body.param;
    this.retryAfterMs = retryAfterMs;
  }
}

/** 400, or another 4xx without a class of its own: the request is invalid. */
export class InvalidRequestError extends ApiError {
  override name = "InvalidRequestError";
}

/** 401 or 403, or a closed connection: the server refuses the caller's token or address. */
export class AuthenticationError extends ApiError {
  override name = "AuthenticationError";
}

/** 404: no such response, model or conversation for this caller. */
export class NotFoundError extends ApiError {
  override name = "NotFoundError";
}

/** 409: another turn of the conversation runs, and no further turn may wait for it. */
export class ConflictError extends ApiError {
  override name = "ConflictError";
}

/** 410: the response was created with `store: false` and its resume window has ended. */
export class ResumeExpiredError extends ApiError {
  override name = "ResumeExpiredError";
}

/** 429: too many requests or tokens, or no storage left for this tenant; see `code` and `retryAfterMs`. */
export class RateLimitError extends ApiError {
  override name = "RateLimitError";
}

/** 5xx: the server failed or is overloaded; see `retryAfterMs`. */
export class ServerError extends ApiError {
  override name = "ServerError";
}

/** The generation failed: the response ended with `response.failed`. */
export class ResponseFailedError extends CaudalError {
  override name = "ResponseFailedError";
  readonly code: string;
  readonly response: ResponseObject;

  constructor(response: ResponseObject) {
    super(response.error?.message ?? "The generation failed.");
    this.code = response.error?.code ?? "engine_failed";
    this.response = response;
  }
}

/**
 * `json()`: the text is incomplete, is not JSON, or was refused by the check. `cause` is the error of the parser or the
 * check.
 */
export class OutputFormatError extends CaudalError {
  override name = "OutputFormatError";
  /** `incomplete`: a limit or a cancel cut the text off. `invalid`: the text is not JSON, or the check refused it. */
  readonly reason: "incomplete" | "invalid";
  readonly response: ResponseObject;

  constructor(reason: "incomplete" | "invalid", message: string, response: ResponseObject, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
    this.response = response;
  }
}

/** `runTools`: the model still calls functions after `maxTurns` responses. */
export class TooManyTurnsError extends CaudalError {
  override name = "TooManyTurnsError";
  /** The last response; its calls were not executed. */
  readonly response: ResponseObject;

  constructor(maxTurns: number, response: ResponseObject) {
    super(`The model still calls functions after ${maxTurns} turns.`);
    this.response = response;
  }
}

/** The server cannot be reached: an HTTP request failed, or there was no connection for `reconnect.giveUpAfterMs`. */
export class ConnectionError extends CaudalError {
  override name = "ConnectionError";
}

/** The server violated the protocol, or is not a Caudal server. */
export class ProtocolError extends CaudalError {
  override name = "ProtocolError";
}

/**
 * The caller's input cannot be sent: it cannot be written as JSON, or an option is out of range. `cause` has details.
 */
export class InputError extends CaudalError {
  override name = "InputError";
}

/** `maxWaiting` requests wait for a connection already. */
export class QueueFullError extends CaudalError {
  override name = "QueueFullError";
}

/** `steer`: the input did not become part of a response. `code` is the server's reason. */
export class SteerError extends CaudalError {
  override name = "SteerError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** The caller cancelled before the request was sent, so there is no response. */
export class CancelledError extends CaudalError {
  override name = "CancelledError";
}

/** The caller stopped following (`signal`). The generation goes on at the server. */
export class DetachedError extends CaudalError {
  override name = "DetachedError";
}

/** The client was closed. Generations go on at the server. */
export class ClientClosedError extends CaudalError {
  override name = "ClientClosedError";
}

/** Builds an error of the class for the status. `body` comes from the wire, so its shape is not trusted. */
export function apiError(status: number, body: unknown, retryAfterMs?: unknown): ApiError {
  const given = fieldsOf(body);
  const filled: ApiErrorBody = {
    code: textOr(given["code"], "unknown"),
    message: textOr(given["message"], `The server answered with status ${status}.`),
    param: textOr(given["param"], null),
  };
  return new (classFor(status))(status, filled, numberOr(retryAfterMs, undefined));
}

/** Reads the error of an `error` message. */
export function errorIn(message: Record<string, unknown>): ApiError {
  return apiError(numberOr(message["status"], 500), message["error"], message["retry_after_ms"]);
}

function classFor(status: number): typeof ApiError {
  if (status === 401 || status === 403) return AuthenticationError;
  if (status === 404) return NotFoundError;
  if (status === 409) return ConflictError;
  if (status === 410) return ResumeExpiredError;
  if (status === 429) return RateLimitError;
  return status >= 500 ? ServerError : InvalidRequestError;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Returns an object as it is, and an empty object for any other value. */
export function fieldsOf(value: unknown): Record<string, unknown> {
  return isRecord(value) ? value : {};
}

export function textOr<T>(value: unknown, fallback: T): string | T {
  return typeof value === "string" ? value : fallback;
}

export function numberOr<T>(value: unknown, fallback: T): number | T {
  return typeof value === "number" ? value : fallback;
}
