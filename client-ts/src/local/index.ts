/** Runs the server's model in the browser, with the same handle and events, also without a server. */

export {
  type LoadOptions,
  LocalEngine,
  type LocalInfo,
  type LocalOptions,
  type LocalProgress,
  type LocalRunOptions,
  type LocalState,
} from "./engine.ts";
export { LocalRefusedError, LocalUnsupportedError } from "./errors.ts";
export { type LocalRun, newLocalConversation } from "./journal.ts";
export type { Device, LocalPlan, LocalProblem } from "./plan.ts";
export { type Policy, type Routed, type RouteReason, Router, type RouterBounds } from "./router.ts";
