/** A new id. `crypto.randomUUID` is there in secure contexts only; a chat page on a local network is none. */
export function newId(prefix: string): string {
  return `${prefix}_${crypto.getRandomValues(new Uint32Array(4)).join("")}`;
}
