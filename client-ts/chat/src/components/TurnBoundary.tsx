import { Component, type ReactNode } from "react";
import { t } from "../i18n.ts";
import type { Turn } from "../turn.ts";

interface TurnBoundaryProps {
  turn: Turn;
  children: ReactNode;
}

/** Shows a turn as plain text if rendering it fails, so that one answer cannot break the page. */
export class TurnBoundary extends Component<TurnBoundaryProps, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }

  override render(): ReactNode {
    if (!this.state.failed) return this.props.children;
    const { turn } = this.props;
    return (
      <section className="turn" data-status={turn.status} data-response-id={turn.responseId}>
        <div className="question">
          <h2 className="sr-only">{t("you")}</h2>
          <p>{turn.prompt}</p>
        </div>
        <div className="answer">
          <h2 className="sr-only">{t("answer")}</h2>
          <div className="prose">
            <p className="plain">{turn.answer}</p>
          </div>
        </div>
      </section>
    );
  }
}
