/** Which connection carries which run, and in which lane. While a server drains, a run may be on two connections. */

import type { Connection } from "./connection.ts";
import type { Run } from "./run.ts";

/** Responses that one connection may carry at a time: the server's limit. */
const LANES = 16;

export class Lanes {
  readonly #byConnection = new Map<Connection, Map<string, Run>>();

  open(connection: Connection): void {
    this.#byConnection.set(connection, new Map());
  }

  /** Forgets the connection and gives back what it carried. */
  close(connection: Connection): readonly Run[] {
    const runs = this.runs(connection);
    this.#byConnection.delete(connection);
    return runs;
  }

  connections(): readonly Connection[] {
    return [...this.#byConnection.keys()];
  }

  runs(connection: Connection): readonly Run[] {
    return [...(this.#byConnection.get(connection)?.values() ?? [])];
  }

  get(connection: Connection, streamId: string): Run | undefined {
    return this.#byConnection.get(connection)?.get(streamId);
  }

  /** A lane of the connection that nothing is in. */
  vacant(connection: Connection): string | undefined {
    const busy = this.#byConnection.get(connection);
    for (let lane = 0; busy && lane < LANES; lane++) if (!busy.has(`lane-${lane}`)) return `lane-${lane}`;
    return undefined;
  }

  take(connection: Connection, streamId: string, run: Run): void {
    this.#byConnection.get(connection)?.set(streamId, run);
  }

  free(connection: Connection, streamId: string): void {
    this.#byConnection.get(connection)?.delete(streamId);
  }

  /** Takes the run off the connection, whatever lane it is in. */
  remove(connection: Connection, run: Run): void {
    for (const [streamId, other] of this.#byConnection.get(connection) ?? []) {
      if (other === run) this.free(connection, streamId);
    }
  }

  carriers(run: Run): readonly Connection[] {
    return this.connections().filter((connection) => this.runs(connection).includes(run));
  }
}
