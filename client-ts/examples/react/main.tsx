import { CaudalClient } from "caudal-client";
import {
  CaudalProvider,
  isRunning,
  type Turn,
  textOf,
  type UseConversation,
  useConnection,
  useConversation,
} from "caudal-client/react";
import { memo, StrictMode, useCallback, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

const client = new CaudalClient({ url: location.origin });

/** The address has the conversation's id: every tab that opens it shows the same turns, live. */
function useAddress(): [string | undefined, (id: string) => void] {
  const [id, setId] = useState(() => location.hash.slice(1) || undefined);
  useEffect(() => {
    const changed = (): void => setId(location.hash.slice(1) || undefined);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return [id, useCallback((next: string) => location.assign(`#${next}`), [])];
}

function Chat() {
  const [id, onConversation] = useAddress();
  const chat = useConversation(id, { onConversation });
  const connection = useConnection();
  const [message, setMessage] = useState("");
  if (chat.status === "loading") return <p className="note">Loading…</p>;
  return (
    <main>
      <h1>Caudal in React</h1>
      {chat.hasOlder && (
        <button type="button" onClick={() => void chat.loadOlder()}>
          Older messages
        </button>
      )}
      {chat.turns.map((turn) => (
        <TurnView key={turn.key} turn={turn} onEdit={chat.edit} />
      ))}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          chat.send(message);
          setMessage("");
        }}
      >
        <input aria-label="Message" value={message} onChange={({ target }) => setMessage(target.value)} />
        {chat.isRunning ? (
          <button type="button" onClick={() => void chat.stop()}>
            Stop
          </button>
        ) : (
          <button type="submit" disabled={message === ""}>
            Send
          </button>
        )}
        <button type="button" disabled={chat.isRunning || chat.turns.length === 0} onClick={chat.regenerate}>
          Regenerate
        </button>
      </form>
      <p className="note">{chat.error?.message ?? connection.status}</p>
    </main>
  );
}

/** An unchanged turn is the same object, so only the streaming one is rendered again. */
const TurnView = memo(function TurnView({ turn, onEdit }: { turn: Turn; onEdit: UseConversation["edit"] }) {
  const edit = (): void => {
    const text = prompt("Ask this instead:", turn.input);
    if (text) void onEdit(turn.key, text);
  };
  return (
    <article>
      <p data-question>
        {turn.input}{" "}
        {!isRunning(turn) && (
          <button type="button" onClick={edit}>
            Edit
          </button>
        )}
      </p>
      <div data-answer data-status={turn.status}>
        {textOf(turn.parts)}
      </div>
      <p className="note">{noteOf(turn)}</p>
    </article>
  );
});

function noteOf({ status, queue, error, endedBy }: Turn): string {
  if (status === "queued") return queue ? `Number ${queue.position} in line` : "Sent";
  if (status === "thinking") return "Thinking…";
  if (status === "recovering") return "The connection is lost; the answer goes on when it is back.";
  if (status === "failed") return error?.message ?? "No answer.";
  return endedBy === "cancelled" ? "Stopped." : "";
}

createRoot(document.querySelector("#root") as Element).render(
  <StrictMode>
    <CaudalProvider client={client}>
      <Chat />
    </CaudalProvider>
  </StrictMode>,
);
