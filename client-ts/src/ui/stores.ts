/** The conversation stores of each client: all components that display the same conversation share its store. */

import type { CaudalClient } from "../client.ts";
import { type ConversationOptions, ConversationStore } from "./conversation-store.ts";

const stores = new WeakMap<CaudalClient, Map<string, ConversationStore>>();

export function storeOf(
  client: CaudalClient,
  id: string | undefined,
  options: ConversationOptions = {},
): ConversationStore {
  const known = id === undefined ? undefined : stores.get(client)?.get(id);
  const store = known ?? new ConversationStore(client, id, options);
  if (id !== undefined) shareStore(client, id, store);
  return store;
}

/** Shares a store under the id that its conversation has received. */
export function shareStore(client: CaudalClient, id: string, store: ConversationStore): void {
  const ofClient = stores.get(client) ?? new Map<string, ConversationStore>();
  stores.set(client, ofClient);
  if (!ofClient.has(id)) ofClient.set(id, store);
}
