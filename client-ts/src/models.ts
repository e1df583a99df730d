import type { Http } from "./http.ts";
import type { Model } from "./types.ts";

export class Models {
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
  }

  /** What the server serves; the first is used when a request names none. */
  async list(): Promise<readonly Model[]> {
    return (await this.#http.get<{ data: Model[] }>(["models"])).data;
  }

  /**
   * Fetches bytes of a model's file, where the server shares the file. The answer is as `fetch` gives it, refusals too.
   * `range` names the first and the last byte; `sha256` the version of the file.
   */
  file(
    model: string,
    { range, sha256, signal }: { range?: readonly [number, number]; sha256?: string; signal?: AbortSignal } = {},
  ): Promise<Response> {
    const headers = range && { range: `bytes=${range.join("-")}` };
    return this.#http.ask("GET", ["models", model, "file"], { query: { sha256 }, headers, signal });
  }

  /** One of them, by its id or an alias. */
  retrieve(model: string): Promise<Model> {
    return this.#http.get(["models", model]);
  }
}
