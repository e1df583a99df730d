import { CaudalError, InputError } from "../errors.ts";
import type { LocalPlan } from "./plan.ts";

/** The engine in the browser does not support a field of the request. */
export class LocalUnsupportedError extends InputError {
  override name = "LocalUnsupportedError";
  /** The field, for instance `tools[0]`. */
  readonly param: string;

  constructor(param: string, why = "the engine in the browser does not support it") {
    super(`\`${param}\`: ${why}.`);
    this.param = param;
  }
}

/** The model should not be loaded here without the user's consent; `plan.problems` has the reasons. */
export class LocalRefusedError extends CaudalError {
  override name = "LocalRefusedError";
  readonly plan: LocalPlan;

  constructor(plan: LocalPlan) {
    super(plan.problems.map(({ message }) => message).join(" "));
    this.plan = plan;
  }
}
