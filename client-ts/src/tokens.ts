/** The bearer token: fixed, or fetched and used until it ends. */

/** A client secret as `POST /v1/client_secrets` answers it. */
export interface ExpiringToken {
  value: string;
  /** Unix seconds. */
  expires_at: number;
}

export type TokenSource = string | (() => string | ExpiringToken | Promise<string | ExpiringToken>);

/** Time that fetching the next token may take. */
const RENEW_BEFORE_MS = 30_000;
/** A token that is short-lived is still used for a while, so that a wrong clock causes no storm of requests. */
const SHORTEST_USE_MS = 5_000;

export class Tokens {
  readonly #source: TokenSource | undefined;
  #kept: { value: string; renewAt: number } | undefined;

  constructor(source: TokenSource | undefined) {
    this.#source = source;
  }

  /** Whether another token can be had: then a token that has expired is no reason to give up. */
  get renews(): boolean {
    return typeof this.#source === "function";
  }

  /** When the token that was given last is to be replaced (as `Date.now()` counts), if its end is known. */
  get renewAt(): number | undefined {
    return this.#kept?.renewAt;
  }

  /** Forgets a token that the server refused. */
  expire(): void {
    this.#kept = undefined;
  }

  async get(): Promise<string | undefined> {
    if (typeof this.#source !== "function") return this.#source;
    if (this.#kept && Date.now() < this.#kept.renewAt) return this.#kept.value;
    const asked = Date.now();
    const token = await this.#source();
    if (typeof token === "string") return token;
    const lasts = token.expires_at * 1000 - asked;
    const useMs = Math.max(SHORTEST_USE_MS, lasts - Math.min(RENEW_BEFORE_MS, lasts / 10));
    this.#kept = { value: token.value, renewAt: asked + useMs };
    return token.value;
  }
}
