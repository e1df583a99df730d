import { ConnectionError } from "./errors.ts";

/** Loads a part of this package that few pages use. Rejects with `ConnectionError` if the part cannot be loaded. */
export async function lazy<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    throw new ConnectionError("A part of the client could not be loaded.", { cause });
  }
}
