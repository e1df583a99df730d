import { type FormEvent, type ReactNode, useId, useState } from "react";

export function TokenForm({ onToken }: { onToken: (token: string) => void }): ReactNode {
  const id = useId();
  const [token, setToken] = useState("");
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (token.trim() !== "") onToken(token.trim());
  };
  return (
    <form className="notice token" onSubmit={submit}>
      <label htmlFor={id}>This server asks for an access token. It is kept until the tab is closed.</label>
      <div>
        <input
          id={id}
          type="password"
          autoComplete="current-password"
          value={token}
          onChange={(event) => setToken(event.target.value)}
        />
        <button type="submit">Connect</button>
      </div>
    </form>
  );
}
