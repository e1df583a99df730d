/** Every error this package throws. All are `CaudalError`s; `instanceof` tells them apart. */

import type { ResponseObject } from "./types.ts";

export class CaudalError extends Error {
  override name = "CaudalError";
}

/** What an error of the server says. */
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
  /** The field of the request that is at fault, where the server named one. */
  readonly param: string | null;
  /** How long the server asks to be left alone before the same request is tried again. */
  readonly retryAfterMs: number | undefined;

  constructor(status: number, body: ApiErrorBody, retryAfterMs?: number) {
    super(body.message);
    this.status = status;
    this.code = body.code;
    this.param = body.param;
    this.retryAfterMs = retryAfterMs;
  }
}

/** 400: the request cannot be honoured as it is. */
export class InvalidRequestError extends ApiError {
  override name = "InvalidRequestError";
}

/** 401 or 403, or the server closed the connection because of who or where the caller is. */
export class AuthenticationError extends ApiError {
  override name = "AuthenticationError";
}

/** 404: no such response, model or conversation for this caller. */
export class NotFoundError extends ApiError {
  override name = "NotFoundError";
}

/** 409: the conversation has a turn in progress, and the server does not let another one wait for it. */
export class ConflictError extends ApiError {
  override name = "ConflictError";
}

/** 410: the response ran on, but the server no longer keeps the events that were missed. `retrieve` may have its text. */
export class ResumeExpiredError extends ApiError {
  override name = "ResumeExpiredError";
}

/** 429: too many requests; see `retryAfterMs`. */
export class RateLimitError extends ApiError {
  override name = "RateLimitError";
}

/** 5xx: the server could not do it; see `retryAfterMs`. */
export class ServerError extends ApiError {
  override name = "ServerError";
}

/** The generation itself failed: `response.failed`. */
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

/** `json()`: the text is not the JSON that was wanted. `cause` is what the parser or the check said. */
export class OutputFormatError extends CaudalError {
  override name = "OutputFormatError";
  /** `incomplete`: a limit or a cancel cut it off. `invalid`: it is no JSON, or the check refused it. */
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
  /** The last response, whose calls were not made. */
  readonly response: ResponseObject;

  constructor(maxTurns: number, response: ResponseObject) {
    super(`The model still calls functions after ${maxTurns} turns.`);
    this.response = response;
  }
}

/** No connection could be had for longer than `reconnect.giveUpAfterMs`. */
export class ConnectionError extends CaudalError {
  override name = "ConnectionError";
}

/** The server broke the protocol, or is no Caudal server. */
export class ProtocolError extends CaudalError {
  override name = "ProtocolError";
}

/** What the caller gave cannot be sent: it is no JSON, or an option is out of range. `cause` has more. */
export class InputError extends CaudalError {
  override name = "InputError";
}

/** Too many requests wait for a connection already: `maxWaiting`. */
export class QueueFullError extends CaudalError {
  override name = "QueueFullError";
}

/** `steer`: the input did not become part of a response. `code` says why. */
export class SteerError extends CaudalError {
  override name = "SteerError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** Cancelled before the request was sent, so there is no response. */
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

/** Makes the class for the status. `body` is what came over the wire, so nothing of it is taken for granted. */
export function apiError(status: number, body: unknown, retryAfterMs?: unknown): ApiError {
  const given = fieldsOf(body);
  const filled: ApiErrorBody = {
    code: textOr(given["code"], "unknown"),
    message: textOr(given["message"], `The server answered with status ${status}.`),
    param: textOr(given["param"], null),
  };
  return new (classFor(status))(status, filled, numberOr(retryAfterMs, undefined));
}

/** Reads the error that an `error` message brings. */
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

/** The fields of an object; none of anything else. */
export function fieldsOf(value: unknown): Record<string, unknown> {
  return isRecord(value) ? value : {};
}

export function textOr<T>(value: unknown, fallback: T): string | T {
  return typeof value === "string" ? value : fallback;
}

export function numberOr<T>(value: unknown, fallback: T): number | T {
  return typeof value === "number" ? value : fallback;
}
