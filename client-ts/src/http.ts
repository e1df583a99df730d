import { type ApiError, apiError, ConnectionError, isRecord } from "./errors.ts";

export interface HttpOptions {
  url: string | URL;
  token?: string | (() => string | Promise<string>);
  fetch?: typeof fetch;
}

type Method = "GET" | "POST" | "DELETE";
type Query = Readonly<Record<string, string | number | undefined>>;

const PROBE_LIMIT_MS = 5_000;

/** What goes over HTTP: everything but streams. */
export class Http {
  readonly #base: URL;
  readonly #token: HttpOptions["token"];
  readonly #fetch: typeof fetch;

  constructor({ url, token, fetch: given }: HttpOptions) {
    this.#base = new URL(url);
    this.#base.protocol = this.#base.protocol.replace(/^ws/, "http");
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#token = token;
    this.#fetch = given ?? ((...args) => fetch(...args));
  }

  url(path: string, scheme: "http" | "ws"): URL {
    const url = new URL(`v1/${path}`, this.#base);
    if (scheme === "ws") url.protocol = url.protocol.replace(/^http/, "ws");
    return url;
  }

  async token(): Promise<string | undefined> {
    return typeof this.#token === "function" ? this.#token() : this.#token;
  }

  get<T>(path: string, query: Query = {}): Promise<T> {
    const given = Object.entries(query).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)]]));
    const search = new URLSearchParams(given).toString();
    return this.#json("GET", search === "" ? path : `${path}?${search}`);
  }

  post<T>(path: string, body?: unknown): Promise<T> {
    return this.#json("POST", path, body);
  }

  delete<T>(path: string): Promise<T> {
    return this.#json("DELETE", path);
  }

  /** What the server says to a request that anybody with access may make; nothing when it is content or unreachable. */
  async probe(): Promise<ApiError | undefined> {
    try {
      const answer = await this.#ask("GET", "models", undefined, AbortSignal.timeout(PROBE_LIMIT_MS));
      return answer.ok ? undefined : await httpError(answer);
    } catch {
      return undefined;
    }
  }

  async #json<T>(method: Method, path: string, body?: unknown): Promise<T> {
    const answer = await this.#ask(method, path, body).catch((cause: unknown) => {
      throw new ConnectionError("A network error kept the server from being reached.", { cause });
    });
    if (!answer.ok) throw await httpError(answer);
    return (await answer.json()) as T;
  }

  async #ask(method: Method, path: string, body: unknown, signal: AbortSignal | null = null): Promise<Response> {
    const token = await this.token();
    const headers: Record<string, string> = {};
    if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const init = { method, headers, signal, body: body === undefined ? null : JSON.stringify(body) };
    return this.#fetch(this.url(path, "http"), init);
  }
}

async function httpError(answer: Response): Promise<ApiError> {
  const body: unknown = await answer.json().catch(() => undefined);
  const seconds = Number(answer.headers.get("retry-after") ?? Number.NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  return apiError(answer.status, isRecord(body) ? body["error"] : undefined, retryAfterMs);
}
