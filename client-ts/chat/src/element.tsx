/**
 * `<caudal-chat url token conversation theme>`: the chat as an element of any page. All of its content is in a shadow root, which
 * separates the styles of both. `::part(page)`, `::part(composer)` and custom properties such as `--accent` style the element.
 *
 * The events bubble out of the shadow root: `caudal-conversation` with `{ id }` when the conversation begins or changes,
 * `caudal-status` with `{ status, responseId }` when an answer begins and ends.
 */

import { createRoot, type Root } from "react-dom/client";
import { App } from "./App.tsx";
import { ChatStore } from "./chat-store.ts";
import { memoryStorage } from "./storage.ts";
import base from "./styles/base.css?inline";
import chat from "./styles/chat.css?inline";
import dialog from "./styles/dialog.css?inline";
import element from "./styles/element.css?inline";
import prose from "./styles/prose.css?inline";
import sidebar from "./styles/sidebar.css?inline";

const STYLES = [base, chat, prose, sidebar, dialog, element].join("\n").replaceAll(":root", ":host");

const THEMES = ["light", "dark"] as const;

export class CaudalChatElement extends HTMLElement {
  static readonly observedAttributes = ["url", "token", "conversation", "theme"];
  #root: Root | undefined;
  #store: ChatStore | undefined;
  #dispatched = { conversation: "", status: "" };

  constructor() {
    super();
    this.attachShadow({ mode: "open" });
  }

  connectedCallback(): void {
    this.#open();
  }

  disconnectedCallback(): void {
    this.#close();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (!this.isConnected || !this.#store || before === now) return;
    if (name === "theme") this.dataset["theme"] = this.#theme();
    else if (name === "conversation") this.#store.open(now || undefined);
    else {
      this.#close();
      this.#open();
    }
  }

  #open(): void {
    const shadow = this.shadowRoot;
    if (!shadow) return;
    this.dataset["theme"] = this.#theme();
    const sheet = document.createElement("style");
    sheet.textContent = STYLES;
    const place = document.createElement("div");
    place.className = "scroller";
    shadow.replaceChildren(sheet, place);
    const server = new URL(this.getAttribute("url") ?? ".", document.baseURI);
    const given = (name: string): string | undefined => this.getAttribute(name) || undefined;
    const store = new ChatStore(server, memoryStorage(given("conversation"), given("token")));
    this.#store = store;
    store.subscribe(() => this.#dispatch());
    this.#root = createRoot(place);
    this.#root.render(<App store={store} embedded />);
  }

  #close(): void {
    this.#root?.unmount();
    this.#store?.close();
    this.#root = undefined;
    this.#store = undefined;
  }

  #theme(): string {
    return THEMES.find((theme) => theme === this.getAttribute("theme")) ?? "system";
  }

  #dispatch(): void {
    const state = this.#store?.snapshot();
    const turn = state?.turns.at(-1);
    const conversation = state?.conversation ?? "";
    const status = turn ? `${turn.key} ${turn.status}` : "";
    if (conversation !== this.#dispatched.conversation)
      this.#send("caudal-conversation", { id: conversation || undefined });
    if (turn && status !== this.#dispatched.status) {
      this.#send("caudal-status", { status: turn.status, responseId: turn.responseId });
    }
    this.#dispatched = { conversation, status };
  }

  #send(name: string, detail: object): void {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }
}

if (!customElements.get("caudal-chat")) customElements.define("caudal-chat", CaudalChatElement);
