import { type FormEvent, type ReactNode, useState } from "react";
import { t } from "../i18n.ts";

interface EditFormProps {
  text: string;
  onSave: (text: string) => void;
  onCancel: () => void;
}

export function EditForm({ text, onSave, onCancel }: EditFormProps): ReactNode {
  const [draft, setDraft] = useState(text);
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (draft.trim() === "" || draft.trim() === text.trim()) onCancel();
    else onSave(draft.trim());
  };
  return (
    <form className="edit" onSubmit={submit}>
      <textarea
        aria-label={t("editMessage")}
        // biome-ignore lint/a11y/noAutofocus: the reader asked to write here
        autoFocus
        rows={Math.min(8, draft.split("\n").length + 1)}
        value={draft}
        onChange={(event) => setDraft(event.target.value)}
        onKeyDown={(event) => event.key === "Escape" && onCancel()}
      />
      <div>
        <button type="button" className="quiet" onClick={onCancel}>
          {t("cancel")}
        </button>
        <button type="submit" className="quiet strong">
          {t("send")}
        </button>
      </div>
    </form>
  );
}
