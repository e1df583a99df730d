import type { ConnectionState, Model } from "caudal-client";
import type { ReactNode } from "react";
import { Pencil, Waves } from "./icons.tsx";

interface HeaderProps {
  model: Model | undefined;
  connection: ConnectionState;
  onNewChat: (() => void) | undefined;
}

const WORDS: Record<ConnectionState["status"], string> = {
  idle: "Not connected",
  connecting: "Connecting",
  connected: "Connected",
  waiting: "Reconnecting",
  failed: "Not connected",
  moving: "Connected",
  closed: "Not connected",
};

export function Header({ model, connection, onNewChat }: HeaderProps): ReactNode {
  return (
    <header>
      <div className="bar">
        <h1>
          <Waves />
          Caudal
        </h1>
        <p className="where">
          <span className="model" title={model?.id}>
            {model?.id ?? ""}
          </span>
          <span className="link" data-state={connection.status}>
            <span className="dot" aria-hidden="true" />
            <span className="link-words">{WORDS[connection.status]}</span>
          </span>
        </p>
        <button
          type="button"
          className="quiet new-chat"
          onClick={onNewChat}
          disabled={!onNewChat}
          aria-label="New chat"
        >
          <Pencil />
          <span aria-hidden="true">New chat</span>
        </button>
      </div>
    </header>
  );
}
