import type { ConnectionState, Model } from "caudal-client";
import type { ReactNode } from "react";
import { type Key, t } from "../i18n.ts";
import { Menu, Pencil, Sliders, Waves } from "./icons.tsx";

interface HeaderProps {
  models: readonly Model[];
  model: string | undefined;
  connection: ConnectionState;
  onModel: (id: string) => void;
  onNewChat: (() => void) | undefined;
  /** `undefined` if there is no sidebar. */
  onMenu: (() => void) | undefined;
  menuOpen: boolean;
  onSettings: () => void;
}

const WORDS: Record<ConnectionState["status"], Key> = {
  idle: "notConnected",
  connecting: "connecting",
  connected: "connected",
  waiting: "reconnecting",
  failed: "notConnected",
  moving: "connected",
  closed: "notConnected",
};

export function Header(props: HeaderProps): ReactNode {
  const { models, model, connection, onModel, onNewChat, onMenu, menuOpen, onSettings } = props;
  return (
    <header>
      <div className="bar">
        {onMenu && (
          <button
            type="button"
            className="quiet menu"
            onClick={onMenu}
            aria-expanded={menuOpen}
            aria-label={menuOpen ? t("closeSidebar") : t("openSidebar")}
          >
            <Menu />
          </button>
        )}
        <h1>
          <Waves />
          <span className="name">Caudal</span>
        </h1>
        <div className="where">
          {models.length > 1 ? (
            <select
              className="model"
              aria-label={t("model")}
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
            <span className="link-words">{t(WORDS[connection.status])}</span>
          </span>
        </div>
        <button type="button" className="quiet" onClick={onSettings} aria-label={t("settings")}>
          <Sliders />
        </button>
        <button
          type="button"
          className="quiet new-chat"
          onClick={onNewChat}
          disabled={!onNewChat}
          aria-label={t("newChat")}
        >
          <Pencil />
          <span aria-hidden="true">{t("newChat")}</span>
        </button>
      </div>
    </header>
  );
}
