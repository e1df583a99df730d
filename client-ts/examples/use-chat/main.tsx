import { useChat } from "@ai-sdk/react";
import { lastAssistantMessageIsCompleteWithApprovalResponses, type UIMessage } from "ai";
import { CaudalClient } from "caudal-client";
import { CaudalChatTransport } from "caudal-client/ai-sdk";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

const client = new CaudalClient({ url: location.origin });
const transport = new CaudalChatTransport({
  client,
  // Runs in the page, after the user's approval.
  tools: {
    current_time: {
      description: "The time, now and here",
      needsApproval: true,
      execute: () => new Date().toLocaleTimeString(),
    },
  },
});

function Chat({ id, messages: initial }: { id: string; messages: UIMessage[] }) {
  const [queue, setQueue] = useState<number>();
  const { messages, sendMessage, regenerate, status, error, addToolApprovalResponse } = useChat({
    id,
    transport,
    messages: initial,
    resume: true,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    onData: (part) => part.type === "data-queue" && setQueue((part.data as { position: number }).position),
  });
  const isBusy = status === "submitted" || status === "streaming";
  const [text, setText] = useState("");
  return (
    <main>
      <h1>Caudal with useChat</h1>
      {messages.map((message, index) => (
        <article key={message.id}>
          <div
            {...(message.role === "user" ? { "data-question": "" } : { "data-answer": "" })}
            data-status={index === messages.length - 1 && isBusy ? status : "ready"}
          >
            {message.parts.map((part) => {
              if (part.type === "text") return part.text;
              if (!("approval" in part) || part.state !== "approval-requested") return null;
              const answer = (approved: boolean) => void addToolApprovalResponse({ id: part.approval.id, approved });
              return (
                <p key={part.toolCallId}>
                  May I look at the clock?{" "}
                  <button type="button" onClick={() => answer(true)}>
                    Yes
                  </button>{" "}
                  <button type="button" onClick={() => answer(false)}>
                    No
                  </button>
                </p>
              );
            })}
          </div>
        </article>
      ))}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void sendMessage({ text });
          setText("");
        }}
      >
        <input aria-label="Message" value={text} onChange={({ target }) => setText(target.value)} />
        {isBusy ? (
          <button type="button" onClick={() => void transport.stop(id)}>
            Stop
          </button>
        ) : (
          <button type="submit" disabled={text === ""}>
            Send
          </button>
        )}
        <button type="button" disabled={isBusy || messages.length === 0} onClick={() => void regenerate()}>
          Regenerate
        </button>
      </form>
      <p className="note">{error?.message ?? (status === "submitted" && queue ? `Number ${queue} in line` : status)}</p>
    </main>
  );
}

/** The address has the conversation's id, which is also the chat's id. */
async function start(): Promise<void> {
  const id = location.hash.slice(1) || (await client.conversations.create()).id;
  location.hash = id;
  const messages = await transport.loadMessages(id);
  createRoot(document.querySelector("#root") as Element).render(
    <StrictMode>
      <Chat id={id} messages={messages} />
    </StrictMode>,
  );
}

void start();
