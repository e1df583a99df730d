import type { ReactNode } from "react";
import { t } from "../i18n.ts";

const IDEAS = ["idea1", "idea2", "idea3", "idea4"] as const;

interface WelcomeProps {
  /** `true`: the conversation in the address does not exist. */
  isGone: boolean;
  onPick: (prompt: string) => void;
}

export function Welcome({ isGone, onPick }: WelcomeProps): ReactNode {
  return (
    <section className="welcome" aria-labelledby="welcome">
      {isGone && (
        <div className="problem" role="alert">
          <p>{t("gone")}</p>
        </div>
      )}
      <h2 id="welcome">{t("welcome")}</h2>
      <p>{t("welcomeText")}</p>
      <ul>
        {IDEAS.map((idea) => (
          <li key={idea}>
            <button type="button" onClick={() => onPick(t(idea))}>
              {t(idea)}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
