/**
 * The events of one response as they were received: appended once, in order, and read by any number of readers, each from
 * the start at its own pace.
 */
export class EventLog<T> {
  readonly #entries: T[] = [];
  #end: { error: Error | undefined } | undefined;
  #wake: (() => void)[] = [];
  /** The number of entries that the furthest reader has received. */
  #read = 0;
  /** Called once when a reader waits for entries that were left out of the log. */
  starved: (() => void) | undefined;

  get ended(): boolean {
    return this.#end !== undefined;
  }

  get last(): T | undefined {
    return this.#entries.at(-1);
  }

  /** The number of entries that no reader has received yet. */
  get unread(): number {
    return this.#entries.length - this.#read;
  }

  /** Appends an entry. If `more` entries follow at once, a later one wakes the waiting readers. */
  append(entry: T, more = false): void {
    if (this.#end) return;
    this.#entries.push(entry);
    if (!more) this.#notify();
  }

  /** Ends the log. With an error, every reader gets the error after the last entry. Only the first end counts. */
  end(error?: Error): void {
    if (this.#end) return;
    this.#end = { error };
    this.#notify();
  }

  /** Yields entries one by one, from entry number `first`. */
  async *follow(first = 0): AsyncGenerator<T, void, undefined> {
    for (let next = first; await this.#has(next); next++) {
      this.#read = Math.max(this.#read, next + 1);
      yield this.#entries[next] as T;
    }
  }

  /** Yields all entries that have come since the last batch. Awaits `pace` before each batch. */
  async *batches(pace?: () => Promise<unknown>): AsyncGenerator<readonly T[], void, undefined> {
    for (let next = 0; await this.#has(next); ) {
      if (pace) await pace();
      const batch = this.#entries.slice(next);
      next += batch.length;
      this.#read = Math.max(this.#read, next);
      yield batch;
    }
  }

  /** Resolves at the end. Rejects if the end is an error. */
  async whenEnded(): Promise<void> {
    while (!this.#end) await new Promise<void>((resolve) => this.#wake.push(resolve));
    if (this.#end.error) throw this.#end.error;
  }

  /** Waits for entry number `index`. Resolves to false, or rejects, when the log ended before it. */
  async #has(index: number): Promise<boolean> {
    while (index >= this.#entries.length) {
      if (this.#end?.error) throw this.#end.error;
      if (this.#end) return false;
      const { starved } = this;
      this.starved = undefined;
      starved?.();
      if (!this.#end) await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
    return true;
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}
