import { t } from "./i18n.ts";
import type { Turn } from "./turn.ts";

export function placeInQueue({ position, estimatedWaitMs }: NonNullable<Turn["queue"]>): string {
  const place = position === 1 ? t("nextInLine") : t("inLine", { n: position });
  return estimatedWaitMs === undefined ? place : t("about", { place, time: duration(Math.max(1000, estimatedWaitMs)) });
}

export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return ms < 100_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`;
}
