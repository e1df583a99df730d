/** React hooks for conversations, responses and the connection. Headless: they render nothing. React 18 and 19. */

import {
  createContext,
  createElement,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import type { CaudalClient } from "../client.ts";
import type { TurnParams } from "../conversations.ts";
import type { ResponseHandle } from "../handle.ts";
import type { ConnectionState } from "../link.ts";
import { type ConversationOptions, type ConversationSnapshot, EMPTY } from "../ui/conversation-store.ts";
import { PENDING, type ResponseSnapshot, ResponseStore } from "../ui/response-store.ts";
import { shareStore, storeOf } from "../ui/stores.ts";
import type { Input } from "../wire.ts";

export { type AnswerPart, type CallPart, type ReasoningPart, type TextPart, textOf } from "../ui/answer.ts";
export type { ConversationOptions, ConversationSnapshot } from "../ui/conversation-store.ts";
export type { TurnStorage } from "../ui/pending.ts";
export type { ResponseSnapshot } from "../ui/response-store.ts";
export { isRunning, type Turn, type TurnStatus } from "../ui/turns.ts";

const Context = createContext<CaudalClient | undefined>(undefined);

/** Provides the client to the hooks below. Create the client outside of components, because it outlives them. */
export function CaudalProvider(props: { client: CaudalClient; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/** Returns the client of the nearest `CaudalProvider`. Throws without one. */
export function useClient(): CaudalClient {
  const client = useContext(Context);
  if (!client) throw new Error("There is no <CaudalProvider> above this component.");
  return client;
}

export interface UseConversationOptions extends ConversationOptions {
  /** The settings of every request, such as model, instructions and tools. */
  params?: TurnParams | undefined;
  /**
   * Called with the id of a new conversation, or of the fork that an edit makes. Store the id, for instance in the
   * address.
   */
  onConversation?: ((id: string) => void) | undefined;
}

export interface UseConversation extends ConversationSnapshot {
  /** Sends a message. Creates the conversation if there is none yet. */
  send(input: Input): void;
  /** Sends the results of the last turn's calls, so that the turn goes on. */
  sendOutputs(outputs: readonly { callId: string; output: string }[]): void;
  /** Cancels the running answers. */
  stop(): Promise<void>;
  /** Replaces the last answer by a new one. */
  regenerate(): void;
  /** Replaces the input of the turn `key` in a fork of the conversation. The hook shows the fork from then on. */
  edit(key: string, input: Input): Promise<void>;
  /** Loads the turns before the oldest one. */
  loadOlder(): Promise<void>;
}

/**
 * Returns the live turns of a conversation, or of a new one without `id`. Turns of other clients are included. All
 * components with the same conversation share its state.
 */
export function useConversation(id?: string, options: UseConversationOptions = {}): UseConversation {
  const client = useClient();
  const { params, onConversation, storage } = options;
  const [given, setGiven] = useState({ id, client });
  const [store, setStore] = useState(() => storeOf(client, id, { storage }));
  let shown = store;
  if (id !== given.id || client !== given.client) {
    setGiven({ id, client });
    if (id !== store.getSnapshot().id || client !== given.client) {
      shown = storeOf(client, id, { storage });
      setStore(shown);
    }
  }
  const snapshot = useSyncExternalStore(shown.subscribe, shown.getSnapshot, () => EMPTY);
  const shownId = snapshot.id;
  const told = useRef(id);
  useEffect(() => {
    if (shownId === undefined || shownId === told.current) return;
    told.current = shownId;
    shareStore(client, shownId, shown);
    if (shownId !== id) onConversation?.(shownId);
  }, [client, shown, shownId, id, onConversation]);
  const edit = useCallback(
    async (key: string, input: Input) => {
      const fork = storeOf(client, await shown.forkBefore(key), { storage });
      fork.send(input, params);
      setStore(fork);
    },
    [client, shown, params, storage],
  );
  return useMemo(
    () => ({
      ...snapshot,
      send: (input) => shown.send(input, params),
      sendOutputs: (outputs) => shown.sendOutputs(outputs, params),
      stop: () => shown.stop(),
      regenerate: () => shown.regenerate(params),
      edit,
      loadOlder: () => shown.loadOlder(),
    }),
    [snapshot, shown, params, edit],
  );
}

/** Returns the live state of one response. Keep the handle in React state: each handle is a response of its own. */
export function useResponse(handle: ResponseHandle | undefined): ResponseSnapshot {
  const store = useMemo(() => handle && new ResponseStore(handle), [handle]);
  const subscribe = store?.subscribe ?? noSubscription;
  return useSyncExternalStore(subscribe, store?.getSnapshot ?? pending, pending);
}

/** Returns the state of the connection. */
export function useConnection(): ConnectionState {
  const client = useClient();
  const subscribe = useCallback((listener: () => void) => client.onConnectionStateChange(listener), [client]);
  return useSyncExternalStore(subscribe, () => client.connectionState, idle);
}

const IDLE: ConnectionState = { status: "idle" };
const idle = (): ConnectionState => IDLE;
const pending = (): ResponseSnapshot => PENDING;
const noSubscription = (): (() => void) => () => undefined;
