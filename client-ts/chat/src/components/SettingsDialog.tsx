import type { Model, StoredPrompt } from "caudal-client";
import { type ReactNode, useEffect, useId, useState, useSyncExternalStore } from "react";
import type { ChatStore } from "../chat-store.ts";
import { t } from "../i18n.ts";
import { DEFAULTS, SAMPLING, type Settings, schemaOf } from "../settings.ts";
import { Dialog } from "./Dialog.tsx";
import { LocalSettings } from "./LocalSettings.tsx";

export default function SettingsDialog({ store, onClose }: { store: ChatStore; onClose: () => void }): ReactNode {
  const { settings, models, model } = useSyncExternalStore(store.subscribe, store.snapshot);
  const prompts = usePrompts(store);
  const change = (change: Partial<Settings>): void => store.change(change);
  const chosen = models.find(({ id }) => id === model);
  const prompt = prompts.find(({ id }) => id === settings.prompt);
  const schemaIsWrong = settings.schema.trim() !== "" && !schemaOf(settings.schema);
  return (
    <Dialog title={t("settings")} onClose={onClose}>
      <fieldset>
        <legend>{t("appearance")}</legend>
        <Choice
          label={t("theme")}
          value={settings.theme}
          options={{ system: t("system"), light: t("light"), dark: t("dark") }}
          onChange={(theme) => change({ theme })}
        />
        <Choice
          label={t("language")}
          value={settings.language}
          options={{ system: t("system"), en: "English", pt: "Português" }}
          onChange={(language) => change({ language })}
        />
      </fieldset>
      <fieldset>
        <legend>{t("conversation")}</legend>
        {models.length > 0 && (
          <Choice
            label={t("model")}
            value={model ?? ""}
            options={Object.fromEntries(models.map(({ id }) => [id, id]))}
            onChange={(id) => store.chooseModel(id)}
          />
        )}
        <Area
          label={t("instructions")}
          value={settings.instructions}
          onChange={(instructions) => change({ instructions })}
        />
        {(prompts.length > 0 || settings.prompt !== "") && (
          <Choice
            label={t("storedPrompt")}
            value={settings.prompt}
            options={{ "": t("none"), ...Object.fromEntries(prompts.map(({ id, name }) => [id, name ?? id])) }}
            onChange={(id) => change({ prompt: id, variables: {} })}
          />
        )}
        {prompt?.variables.map((name) => (
          <Area
            key={name}
            label={t("value", { name })}
            value={settings.variables[name] ?? ""}
            onChange={(value) => change({ variables: { ...settings.variables, [name]: value } })}
          />
        ))}
        <Area label={t("schema")} value={settings.schema} onChange={(schema) => change({ schema })} isCode />
        <p className="hint">{schemaIsWrong ? <span role="alert">{t("schemaWrong")}</span> : t("schemaHint")}</p>
      </fieldset>
      {store.place.exists && (
        <fieldset>
          <legend>{t("browser")}</legend>
          <p className="hint local-hint">{t("localHint")}</p>
          <Choice
            label={t("policy")}
            value={settings.policy}
            options={{ auto: t("policyAuto"), server: t("policyServer"), local: t("policyLocal") }}
            onChange={(policy) => change({ policy })}
          />
          <LocalSettings place={store.place} />
        </fieldset>
      )}
      <Sampling settings={settings} model={chosen} onChange={change} />
      <button
        type="button"
        className="quiet"
        onClick={() =>
          change({ ...UNSET, ...DEFAULTS, theme: settings.theme, language: settings.language, policy: settings.policy })
        }
      >
        {t("reset")}
      </button>
    </Dialog>
  );
}

const UNSET = {
  temperature: undefined,
  topP: undefined,
  topK: undefined,
  minP: undefined,
  repetition: undefined,
  seed: undefined,
  maxTokens: undefined,
};

interface SamplingProps {
  settings: Settings;
  model: Model | undefined;
  onChange: (change: Partial<Settings>) => void;
}

function Sampling({ settings, model, onChange }: SamplingProps): ReactNode {
  const own = model?.sampling;
  const usual = own?.temperature == null ? SAMPLING : {};
  const standard = { temperature: 1, top_p: 1, top_k: t("none"), min_p: 0, repetition_penalty: 1 };
  const defaults = { ...standard, ...withoutNulls(own), ...usual };
  const numbers = [
    ["temperature", t("temperature"), defaults.temperature, 0.1],
    ["topP", t("topP"), defaults.top_p, 0.05],
    ["topK", t("topK"), defaults.top_k, 1],
    ["minP", t("minP"), defaults.min_p, 0.05],
    ["repetition", t("repetition"), defaults.repetition_penalty, 0.05],
    ["seed", t("seed"), t("random"), 1],
    ["maxTokens", t("maxTokens"), t("system").toLowerCase(), 1],
  ] as const;
  return (
    <fieldset>
      <legend>{t("sampling")}</legend>
      <div className="numbers">
        {numbers.map(([name, label, usually, step]) => (
          <label key={name}>
            {label}
            <input
              type="number"
              min={0}
              step={step}
              placeholder={t("modelsDefault", { value: usually ?? t("none") })}
              value={settings[name] ?? ""}
              onChange={({ target }) => onChange({ [name]: target.value === "" ? undefined : Number(target.value) })}
            />
          </label>
        ))}
      </div>
    </fieldset>
  );
}

function withoutNulls(sampling: object | undefined): object {
  return Object.fromEntries(
    Object.entries(sampling ?? {}).filter(([, value]) => value !== null && value !== undefined),
  );
}

interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: Record<T, string>;
  onChange: (value: T) => void;
}

function Choice<T extends string>({ label, value, options, onChange }: ChoiceProps<T>): ReactNode {
  return (
    <label className="choice">
      {label}
      <select value={value} onChange={(event) => onChange(event.target.value as T)}>
        {Object.entries<string>(options).map(([id, words]) => (
          <option key={id} value={id}>
            {words}
          </option>
        ))}
      </select>
    </label>
  );
}

interface AreaProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
  isCode?: boolean;
}

function Area({ label, value, onChange, isCode = false }: AreaProps): ReactNode {
  const id = useId();
  return (
    <div className="area">
      <label htmlFor={id}>{label}</label>
      <textarea
        id={id}
        rows={2}
        className={isCode ? "mono" : undefined}
        spellCheck={!isCode}
        value={value}
        onChange={(event) => onChange(event.target.value)}
      />
    </div>
  );
}

function usePrompts(store: ChatStore): readonly StoredPrompt[] {
  const [prompts, setPrompts] = useState<readonly StoredPrompt[]>([]);
  useEffect(() => {
    store.client.prompts.list({ limit: 100 }).then(
      ({ data }) => setPrompts(data ?? []),
      () => undefined,
    );
  }, [store]);
  return prompts;
}
