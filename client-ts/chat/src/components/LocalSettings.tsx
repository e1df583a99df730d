import { AuthenticationError, NotFoundError } from "caudal-client";
import type { LocalPlan, LocalProgress } from "caudal-client/local";
import { type ReactNode, useEffect, useState, useSyncExternalStore } from "react";
import { duration } from "../format.ts";
import { currentLanguage, type Key, t } from "../i18n.ts";
import type { Place, PlaceState } from "../local/place.ts";

/** Shows the model in this browser: its needs, and the buttons to load, unload and delete it. */
export function LocalSettings({ place }: { place: Place }): ReactNode {
  const state = useSyncExternalStore(place.subscribe, place.snapshot);
  const { plan, refusal } = usePlan(place, state);
  const [problem, setProblem] = useState("");
  const act = (action: () => Promise<void>) => (): void => {
    setProblem("");
    action().catch((error: unknown) => setProblem(t("loadFailed", { message: wordsOf(error) })));
  };
  const { engine, isStored } = state;
  const isLoading = engine.status === "loading";
  const isReady = engine.status === "ready";
  const problems = plan?.problems ?? [];
  // `offline`: the file is not stored, and the server cannot be reached to fetch it.
  const canLoad = plan !== undefined && !isLoading && !isReady && problems.every(({ code }) => code !== "offline");
  return (
    <div className="local">
      <p className="local-words" role="status">
        {wordsFor(state, plan, refusal)}
      </p>
      {isLoading && <Progress progress={engine.progress} />}
      {!isLoading && !isReady && plan && (
        <ul className="local-problems">
          {problems.map(({ code }) => (
            <li key={code}>{t(PROBLEMS[code], { free: size(plan.storageFreeBytes ?? 0) })}</li>
          ))}
          {!plan.kept && <li>{t("notKept")}</li>}
        </ul>
      )}
      {problem !== "" && <p role="alert">{problem}</p>}
      <div className="local-actions">
        {canLoad && (
          <button type="button" className="plain" onClick={act(() => place.load(true))}>
            {t(problems.length > 0 ? "loadAnyway" : "load")}
          </button>
        )}
        {isLoading && (
          <button type="button" className="plain" onClick={() => place.cancelLoad()}>
            {t("cancel")}
          </button>
        )}
        {isReady && (
          <button type="button" className="plain" onClick={act(() => place.unload())}>
            {t("unload")}
          </button>
        )}
        {(isReady || (isStored && !isLoading)) && (
          <button type="button" className="plain danger" onClick={act(() => place.delete())}>
            {t("deleteModel")}
          </button>
        )}
      </div>
    </div>
  );
}

const PROBLEMS: Record<LocalPlan["problems"][number]["code"], Key> = {
  save_data: "problemSaveData",
  storage: "problemStorage",
  memory: "problemMemory",
  offline: "problemOffline",
};

/** Returns the plan of a load. Plans again when the model is loaded, unloaded or deleted. */
function usePlan(place: Place, { engine, isStored }: PlaceState): { plan?: LocalPlan; refusal?: string } {
  const [answer, setAnswer] = useState<{ plan?: LocalPlan; refusal?: string }>({});
  const isIdle = engine.status === "idle" || engine.status === "failed";
  // biome-ignore lint/correctness/useExhaustiveDependencies: what is stored changes the plan
  useEffect(() => {
    if (!isIdle) return;
    let isShown = true;
    place.plan().then(
      (plan) => isShown && setAnswer({ plan }),
      (error: unknown) => isShown && setAnswer({ refusal: wordsOf(error) }),
    );
    return () => {
      isShown = false;
    };
  }, [place, isIdle, isStored]);
  return answer;
}

function wordsFor({ engine, isStored }: PlaceState, plan: LocalPlan | undefined, refusal: string | undefined): string {
  if (engine.status === "ready") {
    const { model, bytes, contextLength } = engine.info;
    return t("loaded", { model, size: size(bytes), device: deviceOf(engine.info), context: number(contextLength) });
  }
  if (!plan) return refusal ?? t("looking");
  const { model, memoryBytes, contextLength } = plan;
  const memory = size(memoryBytes);
  if (isStored && plan.downloadBytes === 0) return t("needsStored", { model, memory, size: size(plan.bytes) });
  const context = number(contextLength);
  return t("needs", { model, memory, context, download: size(plan.downloadBytes), device: deviceOf(plan) });
}

function Progress({ progress }: { progress: LocalProgress }): ReactNode {
  const { phase, loadedBytes, totalBytes, elapsedMs, remainingMs } = progress;
  const time =
    remainingMs === undefined
      ? t("timeSpent", { time: duration(elapsedMs) })
      : t("timeLeft", { time: duration(remainingMs) });
  const words =
    phase === "start"
      ? t("starting", { time: t("timeSpent", { time: duration(elapsedMs) }) })
      : t("fetching", { done: size(loadedBytes), of: size(totalBytes), time });
  return (
    <div className="local-progress">
      <progress aria-label={t("load")} max={totalBytes} value={phase === "start" ? undefined : loadedBytes} />
      <span>{words}</span>
    </div>
  );
}

function deviceOf({ backend, threads }: Pick<LocalPlan, "backend" | "threads">): string {
  if (backend === "webgpu") return t("onGpu");
  return threads === 1 ? t("onThread") : t("onThreads", { n: threads });
}

function wordsOf(error: unknown): string {
  if (error instanceof AuthenticationError || error instanceof NotFoundError) return t("notShared");
  return error instanceof Error ? error.message : t("wrong");
}

function size(bytes: number): string {
  return `${number(Math.ceil(bytes / 1e6))} MB`;
}

function number(value: number): string {
  return value.toLocaleString(currentLanguage());
}
