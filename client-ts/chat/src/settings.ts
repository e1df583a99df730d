/** The user's settings, and the request fields that they set. */

import type { Model, TurnParams } from "caudal-client";
import type { Policy } from "caudal-client/local";

export interface Settings {
  readonly theme: "system" | "light" | "dark";
  readonly language: "system" | "en" | "pt";
  /** Whether answers are generated at the server or in this browser. */
  readonly policy: Policy;
  readonly instructions: string;
  /** The id of a stored prompt, and the values of its variables. */
  readonly prompt: string;
  readonly variables: Readonly<Record<string, string>>;
  readonly temperature?: number | undefined;
  readonly topP?: number | undefined;
  readonly topK?: number | undefined;
  readonly minP?: number | undefined;
  readonly repetition?: number | undefined;
  readonly seed?: number | undefined;
  readonly maxTokens?: number | undefined;
  /** The text of a JSON schema, or empty. */
  readonly schema: string;
}

export const DEFAULTS: Settings = {
  theme: "system",
  language: "system",
  policy: "auto",
  instructions: "",
  prompt: "",
  variables: {},
  schema: "",
};

export const NUMBERS = ["temperature", "topP", "topK", "minP", "repetition", "seed", "maxTokens"] as const;

/**
 * The sampling of models without defaults of their own. Small models lose the thread at the API's default temperature of 1; with
 * this one a regenerated answer still differs.
 */
export const SAMPLING = { temperature: 0.4, top_p: 0.9 };

/** Reads stored settings. Ignores fields of another shape. */
export function settingsFrom(value: unknown): Settings {
  const given = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  const text = (name: string): string => (typeof given[name] === "string" ? (given[name] as string) : "");
  const oneOf = <T extends string>(name: string, values: readonly T[], otherwise: T): T =>
    values.find((value) => value === given[name]) ?? otherwise;
  const variables = typeof given["variables"] === "object" && given["variables"] !== null ? given["variables"] : {};
  const numbers = NUMBERS.filter((name) => Number.isFinite(given[name])).map((name) => [name, given[name]]);
  return {
    theme: oneOf("theme", ["system", "light", "dark"], "system"),
    language: oneOf("language", ["system", "en", "pt"], "system"),
    policy: oneOf("policy", ["server", "auto", "local"], "auto"),
    instructions: text("instructions"),
    prompt: text("prompt"),
    variables: Object.fromEntries(Object.entries(variables).filter(([, value]) => typeof value === "string")),
    schema: text("schema"),
    ...Object.fromEntries(numbers),
  };
}

/** Returns the fields of a request. The model's defaults apply to settings that the user did not choose. */
export function paramsOf(settings: Settings, model: Model | undefined): TurnParams {
  const { temperature, topP, topK, minP, repetition, seed, maxTokens, instructions, prompt, variables } = settings;
  const schema = schemaOf(settings.schema);
  const isTuned = model?.sampling?.temperature != null;
  const given = { temperature, top_p: topP, top_k: topK, min_p: minP, repetition_penalty: repetition, seed };
  return {
    ...(isTuned ? {} : SAMPLING),
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
    ...(maxTokens === undefined ? {} : { max_output_tokens: maxTokens }),
    ...(instructions.trim() === "" ? {} : { instructions }),
    ...(prompt === "" ? {} : { prompt: { id: prompt, variables } }),
    ...(schema ? { text: { format: { type: "json_schema", name: "answer", schema } } } : {}),
  };
}

/** Parses the schema; `undefined` if the text is not a JSON object. */
export function schemaOf(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}
