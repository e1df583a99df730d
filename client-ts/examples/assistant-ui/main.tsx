import {
  ActionBarPrimitive,
  AssistantRuntimeProvider,
  BranchPickerPrimitive,
  ComposerPrimitive,
  MessagePrimitive,
  ThreadPrimitive,
  useAuiState,
} from "@assistant-ui/react";
import { CaudalClient } from "caudal-client";
import { useCaudalRuntime } from "caudal-client/assistant-ui";
import { CaudalProvider } from "caudal-client/react";
import { StrictMode, useCallback, useState } from "react";
import { createRoot } from "react-dom/client";

const client = new CaudalClient({ url: location.origin });

function Chat() {
  const [id] = useState(() => location.hash.slice(1) || undefined);
  const onConversation = useCallback((next: string) => history.replaceState(null, "", `#${next}`), []);
  const runtime = useCaudalRuntime(id, { onConversation });
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ThreadPrimitive.Root role="main">
        <h1>Caudal with assistant-ui</h1>
        <ThreadPrimitive.Viewport>
          <ThreadPrimitive.Messages
            components={{ UserMessage: Question, AssistantMessage: Answer, EditComposer: Edit }}
          />
        </ThreadPrimitive.Viewport>
        <ComposerPrimitive.Root className="composer">
          <ComposerPrimitive.Input aria-label="Message" />
          <ComposerPrimitive.Send>Send</ComposerPrimitive.Send>
          <ComposerPrimitive.Cancel>Stop</ComposerPrimitive.Cancel>
        </ComposerPrimitive.Root>
      </ThreadPrimitive.Root>
    </AssistantRuntimeProvider>
  );
}

function Question() {
  return (
    <MessagePrimitive.Root data-question="">
      <MessagePrimitive.Parts />
      <ActionBarPrimitive.Root>
        <ActionBarPrimitive.Edit>Edit</ActionBarPrimitive.Edit>
      </ActionBarPrimitive.Root>
      <Branches />
    </MessagePrimitive.Root>
  );
}

function Answer() {
  const status = useAuiState(({ message }) => message.status?.type);
  const custom = useAuiState(
    ({ message }) => message.metadata.custom as { status?: string; queue?: { position: number } },
  );
  return (
    <MessagePrimitive.Root>
      <div data-answer="" data-status={status}>
        <MessagePrimitive.Parts />
      </div>
      <p className="note">{custom.queue ? `Number ${custom.queue.position} in line` : custom.status}</p>
      <ActionBarPrimitive.Root hideWhenRunning>
        <ActionBarPrimitive.Reload>Regenerate</ActionBarPrimitive.Reload>
        <ActionBarPrimitive.Copy>Copy</ActionBarPrimitive.Copy>
      </ActionBarPrimitive.Root>
      <Branches />
    </MessagePrimitive.Root>
  );
}

function Edit() {
  return (
    <ComposerPrimitive.Root className="composer">
      <ComposerPrimitive.Input aria-label="Edited message" />
      <ComposerPrimitive.Send>Ask this</ComposerPrimitive.Send>
      <ComposerPrimitive.Cancel>Leave it</ComposerPrimitive.Cancel>
    </ComposerPrimitive.Root>
  );
}

function Branches() {
  return (
    <BranchPickerPrimitive.Root hideWhenSingleBranch className="note">
      <BranchPickerPrimitive.Previous aria-label="Previous branch">‹</BranchPickerPrimitive.Previous>{" "}
      <BranchPickerPrimitive.Number /> of <BranchPickerPrimitive.Count />{" "}
      <BranchPickerPrimitive.Next aria-label="Next branch">›</BranchPickerPrimitive.Next>
    </BranchPickerPrimitive.Root>
  );
}

createRoot(document.querySelector("#root") as Element).render(
  <StrictMode>
    <CaudalProvider client={client}>
      <Chat />
    </CaudalProvider>
  </StrictMode>,
);
