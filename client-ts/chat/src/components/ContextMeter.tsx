import type { ReactNode } from "react";
import { currentLanguage, t } from "../i18n.ts";

/** Shows how full the model's context was after the last answer. */
export function ContextMeter({ used, of }: { used: number | undefined; of: number | undefined }): ReactNode {
  if (used === undefined || of === undefined || of <= 0) return null;
  const number = (value: number): string => value.toLocaleString(currentLanguage());
  const words = t("context", { used: number(used), of: number(of) });
  const part = Math.min(1, used / of);
  return (
    <div className="context" data-full={part > 0.8} title={words}>
      <meter
        min={0}
        max={of}
        low={of * 0.75}
        high={of * 0.95}
        optimum={0}
        value={Math.min(used, of)}
        aria-label={words}
      />
      <span aria-hidden="true">{Math.max(1, Math.round(part * 100))} %</span>
    </div>
  );
}
