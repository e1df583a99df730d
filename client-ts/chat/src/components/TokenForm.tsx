import { type FormEvent, type ReactNode, useId, useState } from "react";
import { t } from "../i18n.ts";

interface TokenFormProps {
  /** `true`: the server refused the last token. */
  refused: boolean;
  onToken: (token: string) => void;
}

export function TokenForm({ refused, onToken }: TokenFormProps): ReactNode {
  const id = useId();
  const problem = useId();
  const [token, setToken] = useState("");
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (token.trim() !== "") onToken(token.trim());
  };
  return (
    <form className="notice token" onSubmit={submit}>
      <label htmlFor={id}>{t("tokenLabel")}</label>
      <div>
        <input
          id={id}
          type="password"
          autoComplete="current-password"
          aria-invalid={refused}
          aria-describedby={refused ? problem : undefined}
          value={token}
          onChange={(event) => setToken(event.target.value)}
        />
        <button type="submit">{t("connect")}</button>
      </div>
      {refused && (
        <p id={problem} role="alert">
          {t("refused")}
        </p>
      )}
    </form>
  );
}
