/** Makes a random id. `crypto.randomUUID` exists in secure contexts only, and a page on a local network is not one. */
export function newId(prefix: string): string {
  return `${prefix}_${crypto.getRandomValues(new Uint32Array(4)).join("")}`;
}
