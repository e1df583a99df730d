import { type ReactNode, useCallback, useRef, useSyncExternalStore } from "react";
import type { ChatStore } from "./chat-store.ts";
import { Announcer } from "./components/Announcer.tsx";
import { Composer } from "./components/Composer.tsx";
import { Header } from "./components/Header.tsx";
import { ArrowDown } from "./components/icons.tsx";
import { Notice } from "./components/Notice.tsx";
import { TokenForm } from "./components/TokenForm.tsx";
import { TurnView } from "./components/TurnView.tsx";
import { Welcome } from "./components/Welcome.tsx";
import { isTouch } from "./touch.ts";
import { isRunning } from "./turn.ts";
import { useStickToBottom } from "./use-stick-to-bottom.ts";

export function App({ store }: { store: ChatStore }): ReactNode {
  const { turns, connection, models, model, needsToken, tokenRefused, isGone } = useSyncExternalStore(
    store.subscribe,
    store.snapshot,
  );
  const message = useRef<HTMLTextAreaElement>(null);
  const { content, atBottom, toBottom } = useStickToBottom();
  const running = isRunning(turns.at(-1));

  // What was pressed may be gone now: the focus goes to where the reader goes on.
  const settle = useCallback(() => {
    toBottom();
    if (!isTouch()) message.current?.focus({ preventScroll: true });
  }, [toBottom]);
  const send = (prompt: string): void => {
    store.send(prompt);
    settle();
  };
  const regenerate = useCallback(() => {
    store.regenerate();
    settle();
  }, [store, settle]);
  const newChat = (): void => {
    store.newChat();
    settle();
  };

  return (
    <div className="page" ref={content}>
      <a className="skip" href="#message">
        Skip to the message box
      </a>
      <Header
        models={models}
        model={model}
        connection={connection}
        onModel={(id) => store.chooseModel(id)}
        onNewChat={turns.length > 0 ? newChat : undefined}
      />
      <main>
        {turns.length === 0 && <Welcome isGone={isGone} onPick={send} />}
        {turns.map((turn, index) => (
          <TurnView
            key={turn.key}
            turn={turn}
            onRegenerate={index === turns.length - 1 && !running ? regenerate : undefined}
          />
        ))}
      </main>
      <footer>
        {!atBottom && turns.length > 0 && (
          <button type="button" className="to-bottom" onClick={toBottom} aria-label="Go to the latest message">
            <ArrowDown />
          </button>
        )}
        {needsToken ? (
          <TokenForm refused={tokenRefused} onToken={(token) => store.authorize(token)} />
        ) : (
          <Notice connection={connection} running={running} onRetry={() => store.reconnect()} />
        )}
        <Composer
          ref={message}
          running={running}
          stopping={turns.at(-1)?.stopping === true}
          onSend={send}
          onStop={() => store.stop()}
        />
      </footer>
      <Announcer turn={turns.at(-1)} connection={connection} needsToken={needsToken} />
    </div>
  );
}
