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
    return (await this.#http.get<{ data: Model[] }>("models")).data;
  }

  /** One of them, by its id or an alias. */
  retrieve(model: string): Promise<Model> {
    return this.#http.get(`models/${encodeURIComponent(model)}`);
  }
}
