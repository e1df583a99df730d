import {
  lazy,
  type ReactNode,
  Suspense,
  useCallback,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import type { ChatStore } from "./chat-store.ts";
import { Announcer } from "./components/Announcer.tsx";
import { writeClipboard } from "./components/CopyButton.tsx";
import { Draft } from "./components/Draft.tsx";
import { Header } from "./components/Header.tsx";
import { ArrowDown } from "./components/icons.tsx";
import { Notice } from "./components/Notice.tsx";
import { Sidebar } from "./components/Sidebar.tsx";
import { TokenForm } from "./components/TokenForm.tsx";
import { type TurnActions, TurnView } from "./components/TurnView.tsx";
import { Welcome } from "./components/Welcome.tsx";
import { rootOf, variantsOf } from "./family.ts";
import { setLanguage, t } from "./i18n.ts";
import { type Action, useShortcuts } from "./shortcuts.ts";
import { isTouch } from "./touch.ts";
import { type Attachment, isRunning } from "./turn.ts";
import { useStickToBottom } from "./use-stick-to-bottom.ts";

const SettingsDialog = lazy(() => import("./components/SettingsDialog.tsx"));
const Shortcuts = lazy(() => import("./components/Shortcuts.tsx"));

/** From this width on the sidebar is beside the conversation; on narrower screens it covers the conversation. */
const WIDE = "(min-width: 64rem)";

type Shown = "settings" | "shortcuts" | undefined;

/** Shows the chat. `embedded`: as an element of another page, without sidebar and shortcuts. */
export function App({ store, embedded = false }: { store: ChatStore; embedded?: boolean }): ReactNode {
  const { settings } = useSyncExternalStore(store.subscribe, store.snapshot);
  const [dialog, setDialog] = useState<Shown>();
  setLanguage(settings.language);
  useEffect(() => {
    if (embedded) return;
    document.documentElement.dataset["theme"] = settings.theme;
    document.documentElement.lang = t("you") === "Tu" ? "pt" : "en";
  }, [settings, embedded]);
  const close = useCallback(() => setDialog(undefined), []);
  return (
    <>
      {/* Another language changes every text, so everything is drawn again. */}
      <Chat key={settings.language} store={store} embedded={embedded} onDialog={setDialog} />
      <Suspense>
        {dialog === "settings" && <SettingsDialog store={store} onClose={close} />}
        {dialog === "shortcuts" && <Shortcuts onClose={close} />}
      </Suspense>
    </>
  );
}

interface ChatProps {
  store: ChatStore;
  embedded: boolean;
  onDialog: (dialog: Shown) => void;
}

function Chat({ store, embedded, onDialog }: ChatProps): ReactNode {
  const state = useSyncExternalStore(store.subscribe, store.snapshot);
  const list = useSyncExternalStore(store.list.subscribe, store.list.snapshot);
  const { isStored } = useSyncExternalStore(store.place.subscribe, store.place.snapshot);
  const { turns, settings, connection, models, model, needsToken, tokenRefused, isGone, conversation } = state;
  const message = useRef<HTMLTextAreaElement>(null);
  const search = useRef<HTMLInputElement>(null);
  const [menuOpen, setMenuOpen] = useState(() => !embedded && matchMedia(WIDE).matches);
  const { content, atBottom, toBottom } = useStickToBottom();
  const last = turns.at(-1);
  // A page has one `main` element, which belongs to the surrounding page.
  const Main = embedded ? "div" : "main";
  const running = isRunning(last);

  useEffect(() => (embedded ? undefined : store.list.watch()), [store, embedded]);
  useEffect(() => {
    if (embedded) return;
    const onHash = (): void => store.open(location.hash.slice(1) || undefined);
    window.addEventListener("popstate", onHash);
    window.addEventListener("hashchange", onHash);
    return () => {
      window.removeEventListener("popstate", onHash);
      window.removeEventListener("hashchange", onHash);
    };
  }, [store, embedded]);

  // The pressed button may have been removed, so the focus moves to the message box.
  const settle = useCallback(() => {
    toBottom();
    if (!isTouch()) message.current?.focus({ preventScroll: true });
  }, [toBottom]);
  const send = (prompt: string, attachments: readonly Attachment[] = []): void => {
    void store.send(prompt, attachments);
    settle();
  };
  const open = useCallback(
    (id: string): void => {
      if (id === store.snapshot().conversation) return;
      history.pushState(null, "", `#${id}`);
      store.open(id);
      if (!matchMedia(WIDE).matches) setMenuOpen(false);
      settle();
    },
    [store, settle],
  );
  const newChat = useCallback((): void => {
    store.newChat();
    settle();
  }, [store, settle]);
  const actions = useMemo<TurnActions>(
    () => ({
      regenerate: () => {
        store.regenerate();
        settle();
      },
      continueAnswer: () => {
        store.continueAnswer();
        settle();
      },
      edit: (key, prompt) => store.edit(key, prompt),
      remove: (key) => void store.deleteTurn(key).catch(() => undefined),
      open: (id) => {
        if (!embedded) history.pushState(null, "", `#${id}`);
        store.open(id);
      },
    }),
    [store, settle, embedded],
  );
  const onShortcut = useCallback(
    (action: Action): void => {
      if (embedded) return;
      if (action === "new") newChat();
      if (action === "regenerate") actions.regenerate();
      if (action === "help") onDialog("shortcuts");
      if (action === "copy") void writeClipboard(store.snapshot().turns.at(-1)?.answer ?? "");
      if (action === "search") {
        setMenuOpen(true);
        requestAnimationFrame(() => search.current?.focus());
      }
    },
    [embedded, store, actions, newChat, onDialog],
  );
  useShortcuts(onShortcut);

  const shown = list.chats.find(({ id }) => id === conversation);
  const canHandOver = running && isStored && last?.where !== "browser";
  return (
    <div className="shell" data-menu={menuOpen} data-embedded={embedded}>
      {menuOpen && (
        <>
          <Sidebar
            list={store.list}
            state={list}
            current={shown ? rootOf(shown) : conversation}
            search={search}
            onOpen={open}
            onRemove={(id) => void store.remove(id).catch(() => undefined)}
            onShortcuts={() => onDialog("shortcuts")}
          />
          <button
            type="button"
            className="scrim"
            aria-label={t("closeSidebar")}
            tabIndex={-1}
            onClick={() => setMenuOpen(false)}
          />
        </>
      )}
      <div className="page" part="page" ref={content}>
        <button type="button" className="skip" onClick={() => message.current?.focus()}>
          {t("skip")}
        </button>
        <Header
          models={models}
          model={model}
          connection={connection}
          onModel={(id) => store.chooseModel(id)}
          onNewChat={turns.length > 0 ? newChat : undefined}
          onMenu={embedded ? undefined : () => setMenuOpen(!menuOpen)}
          menuOpen={menuOpen}
          onSettings={() => onDialog("settings")}
        />
        <Main className="conversation">
          {turns.length === 0 && <Welcome isGone={isGone} onPick={send} />}
          {turns.map((turn, index) => (
            <TurnView
              key={turn.key}
              turn={turn}
              actions={actions}
              isLast={index === turns.length - 1}
              isBusy={running}
              variants={conversation === undefined ? undefined : variantsOf(list.chats, conversation, index)}
            />
          ))}
        </Main>
        <footer>
          {!atBottom && turns.length > 0 && (
            <button type="button" className="to-bottom" onClick={toBottom} aria-label={t("latest")}>
              <ArrowDown />
            </button>
          )}
          {needsToken ? (
            <TokenForm refused={tokenRefused} onToken={(token) => store.authorize(token)} />
          ) : (
            <Notice
              connection={connection}
              running={running && last?.where !== "browser"}
              answersHere={isStored && settings.policy !== "server"}
              hasBegun={last !== undefined && last.answer !== ""}
              onRetry={() => store.reconnect()}
              onHandOver={canHandOver ? () => store.handOver() : undefined}
            />
          )}
          <Draft
            store={store}
            message={message}
            running={running}
            stopping={last?.stopping === true}
            onSend={send}
            onStop={() => store.stop()}
          />
        </footer>
        <Announcer turn={last} connection={connection} needsToken={needsToken} />
      </div>
    </div>
  );
}
