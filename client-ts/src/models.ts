import type { Http } from "./http.ts";
import type { Model } from "./types.ts";

export class Models {
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
  }

  /** Lists the models of the server. A request without `model` uses the first. */
  async list(): Promise<readonly Model[]> {
    return (await this.#http.get<{ data: Model[] }>(["models"])).data;
  }

  /**
   * Fetches a model's file, or a part of it, if the server shares the file. Resolves to the `Response` of `fetch`, also
   * for a refusal. `range`: the first and the last byte. `sha256`: the version of the file.
   */
  file(
    model: string,
    { range, sha256, signal }: { range?: readonly [number, number]; sha256?: string; signal?: AbortSignal } = {},
  ): Promise<Response> {
    const headers = range && { range: `bytes=${range.join("-")}` };
    return this.#http.ask("GET", ["models", model, "file"], { query: { sha256 }, headers, signal });
  }

  /** Fetches the description of one model by its id or an alias. */
  retrieve(model: string): Promise<Model> {
    return this.#http.get(["models", model]);
  }
}
