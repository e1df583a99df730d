/** The bearer token: fixed, or fetched and used until it ends. */

import { within } from "./timer.ts";

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
  readonly #limitMs: number;
  #kept: { value: string; renewAt: number } | undefined;

  /** A token is waited for no longer than that. */
  constructor(source: TokenSource | undefined, limitMs: number) {
    this.#source = source;
    this.#limitMs = limitMs;
  }

  /** Whether another token can be had: then a token that has expired is no reason to give up. */
  get renews(): boolean {
    return typeof this.#source === "function";
  }

  /** When the token that was given last is to be replaced (as `Date.now()` counts), if its end is known. */
  get renewAt(): number | undefined {
    return this.#kept?.renewAt;
  }

  /** Forgets a token that the server refused. False if the next one would be no newer. */
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
