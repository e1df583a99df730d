import { encode, type Message } from "./encode.ts";
import { type ApiError, apiError, ConnectionError, InputError, isRecord } from "./errors.ts";
import type { Tokens } from "./tokens.ts";

type Method = "GET" | "POST" | "DELETE";
type Query = Readonly<Record<string, string | number | undefined>>;

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

  url(path: string, scheme: "http" | "ws"): URL {
    const url = new URL(`v1/${path}`, this.#base);
    if (scheme === "ws") url.protocol = url.protocol.replace(/^http/, "ws");
    return url;
  }

  get<T>(path: string, query: Query = {}): Promise<T> {
    const given = Object.entries(query).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)]]));
    const search = new URLSearchParams(given).toString();
    return this.#json("GET", search === "" ? path : `${path}?${search}`);
  }

  post<T>(path: string, body?: object): Promise<T> {
    return this.#json("POST", path, body);
  }

  delete<T>(path: string): Promise<T> {
    return this.#json("DELETE", path);
  }

  /** What the server answers to a request that anybody with access may make: "up", "down", or an error of the server. */
  async probe(): Promise<"up" | ApiError | undefined> {
    const limit = new AbortController();
    // Unlike the timer of `AbortSignal.timeout`, this one keeps a Node process alive.
    const timer = setTimeout(() => limit.abort(), PROBE_LIMIT_MS);
    try {
      const answer = await this.ask("GET", "models", undefined, { signal: limit.signal });
      return answer.ok ? "up" : await httpError(answer);
    } catch {
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  async ask(
    method: Method,
    path: string,
    body?: string,
    { signal = null, headers: given = {} }: { signal?: AbortSignal | null; headers?: Record<string, string> } = {},
  ): Promise<Response> {
    const token = await this.tokens.get();
    const headers = { ...given };
    if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    return this.#fetch(this.url(path, "http"), { method, headers, signal, body: body ?? null });
  }

  async #json<T>(method: Method, path: string, body?: object): Promise<T> {
    const text = body && encode(body as Message);
    const answer = await this.ask(method, path, text).catch((cause: unknown) => {
      throw new ConnectionError("A network error kept the server from being reached.", { cause });
    });
    if (!answer.ok) throw await httpError(answer);
    return (await answer.json()) as T;
  }
}

/** The server's address, with or without the API's `/v1`. */
function addressOf(url: string | URL): URL {
  if (!URL.canParse(url)) throw new InputError(`\`url\` is no address: ${url}`);
  const address = new URL(url);
  address.protocol = address.protocol.replace(/^ws/, "http");
  address.pathname = `${address.pathname.replace(/\/(v1\/?)?$/, "")}/`;
  return address;
}

export async function httpError(answer: Response): Promise<ApiError> {
  const body: unknown = await answer.json().catch(() => undefined);
  const seconds = Number(answer.headers.get("retry-after") ?? Number.NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  return apiError(answer.status, isRecord(body) ? body["error"] : undefined, retryAfterMs);
}
