/** Schemas of any library: Standard Schema checks a value, Standard JSON Schema describes it. */

import { InputError } from "./errors.ts";
import type { JsonSchemaFormat } from "./types.ts";

/** A schema of zod, valibot, arktype or another library that follows https://standardschema.dev. */
export interface StandardSchema<Output = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>;
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined;
  };
}

export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly { readonly message: string }[] };

/**
 * A schema that can also be written as JSON Schema: zod 4.2, arktype 2.1.28, valibot through `@valibot/to-json-schema`.
 */
export interface StandardJsonSchema<Output = unknown> {
  readonly "~standard": StandardSchema<Output>["~standard"] & {
    readonly jsonSchema: { readonly input: (options: { readonly target: string }) => Record<string, unknown> };
  };
}

/** A function that returns the value typed, or throws, such as `parse` of a schema library; or a Standard Schema. */
export type Check<T> = ((value: unknown) => T) | StandardSchema<T>;

/** Resolves to the value as the check returns it. Rejects with the issues that the check found. */
export async function checked<T>(check: Check<T>, value: unknown): Promise<T> {
  // An arktype schema is a function, too.
  if (!("~standard" in check)) return check(value);
  const result = await check["~standard"].validate(value);
  if (!result.issues) return result.value;
  throw new Error(result.issues.map(({ message }) => message).join("; "));
}

/** Returns the JSON Schema of the schema's input. Throws `InputError` if the schema has none. */
export function jsonSchemaOf(schema: StandardJsonSchema): Record<string, unknown> {
  try {
    const { $schema: _, ...described } = schema["~standard"].jsonSchema.input({ target: "draft-2020-12" });
    return described;
  } catch (cause) {
    throw new InputError("The schema cannot be written as JSON Schema.", { cause });
  }
}

/** Returns the `text.format` that makes an output match a schema. Pass the same schema to `json()`. */
export function jsonFormat(name: string, schema: StandardJsonSchema): JsonSchemaFormat {
  return { type: "json_schema", name, schema: jsonSchemaOf(schema) };
}
