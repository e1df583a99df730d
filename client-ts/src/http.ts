import { encode } from "./encode.ts";
import {
  type ApiError,
  apiError,
  CaudalError,
  ConnectionError,
  fieldsOf,
  InputError,
  isRecord,
  ProtocolError,
} from "./errors.ts";
import type { PageQuery } from "./pages.ts";
import { within } from "./timer.ts";
import type { Tokens } from "./tokens.ts";

type Method = "GET" | "POST" | "DELETE";

/** The unescaped parts of a path below `/v1`: `["responses", id]`. */
type Path = readonly string[];

type Query = Readonly<Record<string, unknown>> | PageQuery;

interface Asking {
  query?: Query | undefined;
  body?: string | undefined;
  headers?: Record<string, string> | undefined;
  signal?: AbortSignal | undefined;
}

const PROBE_LIMIT_MS = 5_000;

/** Requests over HTTP: everything except streams. */
export class Http {
  readonly tokens: Tokens;
  readonly #base: URL;
  readonly #fetch: typeof fetch;

  constructor(url: string | URL, tokens: Tokens, given?: typeof fetch) {
    this.#base = addressOf(url);
    this.tokens = tokens;
    this.#fetch = given ?? ((...args) => fetch(...args));
  }

  /** Throws `InputError` for a part that no path can have. */
  url(path: Path, query?: Query): URL {
    const url = new URL(["v1", ...path.map(escaped)].join("/"), this.#base);
    for (const [name, value] of Object.entries(query ?? {}))
      if (value !== undefined) url.searchParams.set(name, `${value}`);
    return url;
  }

  get<T>(path: Path, query?: Query): Promise<T> {
    return this.#json("GET", path, query);
  }

  /** Sends the merged parts as the body. */
  post<T>(path: Path, ...body: object[]): Promise<T> {
    return this.#json("POST", path, undefined, body);
  }

  delete<T>(path: Path): Promise<T> {
    return this.#json("DELETE", path);
  }

  /**
   * Requests the list of models. Resolves to "up", to the error with which the server refuses, or to undefined without
   * an answer.
   */
  async probe(): Promise<"up" | ApiError | undefined> {
    try {
      return await within(PROBE_LIMIT_MS, async (signal) => {
        const answer = await this.ask("GET", ["models"], { signal });
        return answer.ok ? "up" : await httpError(answer);
      });
    } catch {
      return undefined;
    }
  }

  /**
   * Sends a request. If the server answers 401 to a cached token, fetches another token and sends the request once
   * more.
   */
  async ask(method: Method, path: Path, { query, body, headers, signal }: Asking = {}): Promise<Response> {
    const url = this.url(path, query);
    for (let isFirst = true; ; isFirst = false) {
      const token = await this.tokens.get();
      const answer = await this.#fetch(url, {
        method,
        signal: signal ?? null,
        body: body ?? null,
        headers: {
          ...(token !== undefined && { authorization: `Bearer ${token}` }),
          ...(body !== undefined && { "content-type": "application/json" }),
          ...headers,
        },
      });
      if (answer.status !== 401 || !isFirst || !this.tokens.expire(token)) return answer;
    }
  }

  async #json<T>(method: Method, path: Path, query?: Query, parts: object[] = []): Promise<T> {
    const body = parts.length > 0 ? encode(...parts) : undefined;
    const answer = await this.ask(method, path, { query, body }).catch(unreachable);
    if (!answer.ok) throw await httpError(answer);
    const value: unknown = await answer.json().catch((cause: unknown) => {
      if (!(cause instanceof SyntaxError)) unreachable(cause);
    });
    if (!isRecord(value)) throw new ProtocolError("The server's answer is not a JSON object.");
    return value as T;
  }
}

function unreachable(cause: unknown): never {
  if (cause instanceof CaudalError) throw cause;
  throw new ConnectionError("The server cannot be reached: network error.", { cause });
}

/** Escapes a part of a path. Refuses an empty part and one of dots, which would name another path. */
function escaped(part: string): string {
  try {
    if (typeof part === "string" && !/^\.{0,2}$/.test(part)) return encodeURIComponent(part);
  } catch {
    // An unpaired surrogate.
  }
  throw new InputError(`Invalid id: ${String(part)}`);
}

/** Parses the server's address and removes a trailing `/v1`. */
function addressOf(url: string | URL): URL {
  if (!URL.canParse(url)) throw new InputError(`\`url\` is not a URL: ${url}`);
  const address = new URL(url);
  address.protocol = address.protocol.replace(/^ws/, "http");
  address.pathname = `${address.pathname.replace(/\/(v1\/?)?$/, "")}/`;
  return address;
}

export async function httpError(answer: Response): Promise<ApiError> {
  const body: unknown = await answer.json().catch(() => undefined);
  const seconds = Number(answer.headers.get("retry-after") ?? Number.NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  return apiError(answer.status, fieldsOf(body)["error"], retryAfterMs);
}
