import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App.tsx";
import { ChatStore } from "./chat-store.ts";
import { keepOffline } from "./offline.ts";
import { pageStorage } from "./storage.ts";
import "./styles/base.css";
import "./styles/chat.css";
import "./styles/prose.css";
import "./styles/sidebar.css";
import "./styles/dialog.css";

const store = new ChatStore(new URL(".", location.href), pageStorage, () => import("./local/engine.ts"));
const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App store={store} />
    </StrictMode>,
  );
}
if (import.meta.env.PROD) keepOffline();
