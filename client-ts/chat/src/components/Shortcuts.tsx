import type { ReactNode } from "react";
import { t } from "../i18n.ts";
import { SHORTCUTS } from "../shortcuts.ts";
import { Dialog } from "./Dialog.tsx";

export default function Shortcuts({ onClose }: { onClose: () => void }): ReactNode {
  return (
    <Dialog title={t("shortcuts")} onClose={onClose}>
      <dl className="keys">
        {SHORTCUTS.map(({ words, keys }) => (
          <div key={words}>
            <dt>{t(words)}</dt>
            <dd>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
