import type { ConnectionState, Model } from "caudal-client";
import type { ReactNode } from "react";
import { Pencil, Waves } from "./icons.tsx";

interface HeaderProps {
  models: readonly Model[];
  model: string | undefined;
  connection: ConnectionState;
  onModel: (id: string) => void;
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

export function Header({ models, model, connection, onModel, onNewChat }: HeaderProps): ReactNode {
  return (
    <header>
      <div className="bar">
        <h1>
          <Waves />
          Caudal
        </h1>
        <div className="where">
          {models.length > 1 ? (
            <select
              className="model"
              aria-label="Model"
              title={model}
              value={model}
              onChange={(event) => onModel(event.target.value)}
            >
              {models.map(({ id }) => (
                <option key={id}>{id}</option>
              ))}
            </select>
          ) : (
            <span className="model" title={model}>
              {model ?? ""}
            </span>
          )}
          <span className="link" data-state={connection.status}>
            <span className="dot" aria-hidden="true" />
            <span className="link-words">{WORDS[connection.status]}</span>
          </span>
        </div>
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
