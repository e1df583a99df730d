/** The bearer token: fixed, or fetched and cached until it expires. */

import { within } from "./timer.ts";

/** A client secret: the answer of `POST /v1/client_secrets`. */
export interface ExpiringToken {
  value: string;
  /** Unix seconds. */
  expires_at: number;
}

export type TokenSource = string | (() => string | ExpiringToken | Promise<string | ExpiringToken>);

/** The longest time before its expiry at which a token is replaced. */
const RENEW_BEFORE_MS = 30_000;
/** Every expiring token is used at least this long, so that a wrong clock causes no storm of requests. */
const SHORTEST_USE_MS = 5_000;

export class Tokens {
  readonly #source: TokenSource | undefined;
  readonly #limitMs: number;
  #kept: { value: string; renewAt: number } | undefined;

  /** `limitMs` bounds the wait for a token. */
  constructor(source: TokenSource | undefined, limitMs: number) {
    this.#source = source;
    this.#limitMs = limitMs;
  }

  /** Whether another token can be fetched, so that an expired one does not end the client. */
  get renews(): boolean {
    return typeof this.#source === "function";
  }

  /** When to replace the cached token (as `Date.now()` counts); undefined if no token is cached. */
  get renewAt(): number | undefined {
    return this.#kept?.renewAt;
  }

  /**
   * Forgets a cached token that the server refused. Returns `false` if no token was cached: the refused one was new.
   */
  expire(token: string | undefined = this.#kept?.value): boolean {
    const { value } = this.#kept ?? {};
    if (value === token) this.#kept = undefined;
    return value !== undefined;
  }

  async get(): Promise<string | undefined> {
    if (typeof this.#source !== "function") return this.#source;
    if (this.#kept && Date.now() < this.#kept.renewAt) return this.#kept.value;
    const asked = Date.now();
    const token = await within(this.#limitMs, this.#source);
    if (typeof token === "string") return token;
    const lasts = token.expires_at * 1000 - asked;
    if (!Number.isFinite(lasts)) return token.value;
    const useMs = Math.max(SHORTEST_USE_MS, lasts - Math.min(RENEW_BEFORE_MS, lasts / 10));
    this.#kept = { value: token.value, renewAt: asked + useMs };
    return token.value;
  }
}
