import { type ChangeEvent, type FormEvent, type ReactNode, type RefObject, useEffect, useState } from "react";
import { type ChatList, type ChatListState, type ExportedChat, familiesOf } from "../chat-list.ts";
import type { ChatSummary } from "../chat-summary.ts";
import { asMarkdown, download } from "../export.ts";
import { t } from "../i18n.ts";
import { isLocal } from "../local/ids.ts";
import { Dots, Keys } from "./icons.tsx";

interface SidebarProps {
  list: ChatList;
  state: ChatListState;
  /** The root of the conversation that is shown. */
  current: string | undefined;
  search: RefObject<HTMLInputElement | null>;
  onOpen: (id: string) => void;
  onRemove: (id: string) => void;
  onShortcuts: () => void;
}

export function Sidebar({ list, state, current, search, onOpen, onRemove, onShortcuts }: SidebarProps): ReactNode {
  const [words, setWords] = useState("");
  const [problem, setProblem] = useState("");
  useEffect(() => {
    if (words !== "") void list.more(true);
  }, [words, list]);
  const importChat = async (event: ChangeEvent<HTMLInputElement>): Promise<void> => {
    const file = event.target.files?.[0];
    event.target.value = "";
    if (!file) return;
    try {
      const chat = JSON.parse(await file.text()) as ExportedChat;
      if (!Array.isArray(chat.items)) throw new TypeError("There are no items.");
      onOpen(await list.import({ title: String(chat.title ?? ""), items: chat.items }));
      setProblem("");
    } catch {
      setProblem(t("importFailed"));
    }
  };
  const chats = familiesOf(state.chats, words);
  return (
    <nav className="sidebar" aria-label={t("chats")}>
      <input
        ref={search}
        type="search"
        className="search"
        placeholder={t("searchChats")}
        aria-label={t("searchChats")}
        value={words}
        onChange={(event) => setWords(event.target.value)}
      />
      {chats.length === 0 && <p className="none">{words === "" ? t("noChats") : t("noMatch")}</p>}
      <ul className="chats">
        {chats.map((chat) => (
          <Row
            key={chat.id}
            chat={chat}
            list={list}
            isCurrent={chat.id === current}
            onOpen={onOpen}
            onRemove={onRemove}
          />
        ))}
      </ul>
      {state.hasMore && words === "" && (
        <button type="button" className="quiet" onClick={() => void list.more()}>
          {t("more")}
        </button>
      )}
      <div className="sidebar-foot">
        <label className="quiet import">
          {t("importChat")}
          <input
            type="file"
            accept="application/json,.json"
            className="sr-only"
            onChange={(event) => void importChat(event)}
          />
        </label>
        <button type="button" className="quiet" onClick={onShortcuts} aria-label={t("shortcuts")}>
          <Keys />
        </button>
      </div>
      {problem !== "" && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </nav>
  );
}

interface RowProps {
  chat: ChatSummary;
  list: ChatList;
  isCurrent: boolean;
  onOpen: (id: string) => void;
  onRemove: (id: string) => void;
}

function Row({ chat, list, isCurrent, onOpen, onRemove }: RowProps): ReactNode {
  const [renaming, setRenaming] = useState<string>();
  const [open, setOpen] = useState(false);
  const title = chat.title ?? t("untitled");
  if (renaming !== undefined) {
    const submit = (event: FormEvent): void => {
      event.preventDefault();
      if (renaming.trim() !== "") void list.rename(chat.id, renaming.trim()).catch(() => undefined);
      setRenaming(undefined);
    };
    return (
      <li>
        <form onSubmit={submit}>
          <input
            className="search"
            aria-label={t("rename")}
            // biome-ignore lint/a11y/noAutofocus: the reader asked to write here
            autoFocus
            value={renaming}
            onChange={(event) => setRenaming(event.target.value)}
            onBlur={submit}
            onKeyDown={(event) => event.key === "Escape" && setRenaming(undefined)}
          />
        </form>
      </li>
    );
  }
  const act = (action: () => void) => (): void => {
    setOpen(false);
    action();
  };
  const save = async (format: "md" | "json"): Promise<void> => {
    const chat_ = await list.export(chat.id);
    const text = format === "md" ? asMarkdown(chat_) : `${JSON.stringify(chat_, null, 2)}\n`;
    download(`${title}.${format}`, text, format === "md" ? "text/markdown" : "application/json");
  };
  return (
    <li data-current={isCurrent} data-id={chat.id}>
      <button
        type="button"
        className="chat"
        aria-current={isCurrent ? "page" : undefined}
        onClick={() => onOpen(chat.id)}
      >
        {title}
      </button>
      {isLocal(chat.id) ? null : (
        <button
          type="button"
          className="quiet chat-options"
          aria-label={t("options", { title })}
          aria-expanded={open}
          onClick={() => setOpen(!open)}
        >
          <Dots />
        </button>
      )}
      {open && (
        <div className="chat-menu">
          <button type="button" className="quiet" onClick={act(() => setRenaming(title))}>
            {t("rename")}
          </button>
          <button type="button" className="quiet" onClick={act(() => void save("md"))}>
            {t("exportMarkdown")}
          </button>
          <button type="button" className="quiet" onClick={act(() => void save("json"))}>
            {t("exportJson")}
          </button>
          <button
            type="button"
            className="quiet danger"
            onClick={act(() => confirm(t("removeChat")) && onRemove(chat.id))}
          >
            {t("remove")}
          </button>
        </div>
      )}
    </li>
  );
}
