/**
 * Reproduces AI SDK's example of resumable streams on Caudal's transport: a chat with an id of its own, a link to it,
 * `resume` on the linked page, a new transport at each render, `stop` and `regenerate` of `useChat`.
 */

import { useChat } from "@ai-sdk/react";
import { createIdGenerator, type UIMessage } from "ai";
import { CaudalClient } from "caudal-client";
import { CaudalChatTransport } from "caudal-client/ai-sdk";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

const client = new CaudalClient({ url: location.origin });
const transportOf = (): CaudalChatTransport => new CaudalChatTransport({ client });

function Chat({ id, resume, messages: initial }: { id: string; resume: boolean; messages: UIMessage[] }) {
  const { messages, status, error, sendMessage, regenerate, stop } = useChat({
    id,
    messages: initial,
    resume,
    transport: transportOf(),
  });
  return (
    <>
      <a href={`?chat=${id}`}>{id}</a>
      <output>{status}</output>
      {messages.map((message) => (
        <p key={message.id} data-role={message.role} data-id={message.id}>
          {message.parts.map((part) => (part.type === "text" ? part.text : ""))}
        </p>
      ))}
      <button type="button" onClick={() => void stop()}>
        Stop
      </button>
      {error && (
        <p role="alert">
          {error.message}{" "}
          <button type="button" onClick={() => void regenerate()}>
            Retry
          </button>
        </p>
      )}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void sendMessage({ text: String(new FormData(event.currentTarget).get("text")) });
        }}
      >
        <input name="text" aria-label="Message" />
      </form>
    </>
  );
}

const linked = new URLSearchParams(location.search).get("chat");
const id = linked ?? createIdGenerator({ size: 32 })();
const messages = linked === null ? [] : await transportOf().loadMessages(linked);
createRoot(document.querySelector("#root") as Element).render(
  <StrictMode>
    <Chat id={id} resume={linked !== null} messages={messages} />
  </StrictMode>,
);
