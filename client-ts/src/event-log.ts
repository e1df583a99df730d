/**
 * A generation is a log on this side too: written once, in order, and followed by any number of readers, each from the
 * start at its own pace. It holds one response, so the response's size bounds it and a slow reader costs no more.
 */
export class EventLog<T> {
  readonly #entries: T[] = [];
  #end: { error: Error | undefined } | undefined;
  #wake: (() => void)[] = [];

  get ended(): boolean {
    return this.#end !== undefined;
  }

  append(entry: T): void {
    if (this.#end) return;
    this.#entries.push(entry);
    this.#notify();
  }

  /** Ends the log: with an error, every reader gets it after the last entry. Only the first end counts. */
  end(error?: Error): void {
    if (this.#end) return;
    this.#end = { error };
    this.#notify();
  }

  /** From the start, or from entry number `first`. */
  async *follow(first = 0): AsyncGenerator<T, void, undefined> {
    for (let next = first; ; next++) {
      while (next >= this.#entries.length) {
        if (this.#end?.error) throw this.#end.error;
        if (this.#end) return;
        await new Promise<void>((resolve) => this.#wake.push(resolve));
      }
      yield this.#entries[next] as T;
    }
  }

  /** Resolves at the end, rejects if that is an error. */
  async whenEnded(): Promise<void> {
    while (!this.#end) await new Promise<void>((resolve) => this.#wake.push(resolve));
    if (this.#end.error) throw this.#end.error;
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}
