import type { ResponseHandle, ResponseObject } from "caudal-client";
import { Answer, type Content } from "./answer.ts";
import type { Turn, TurnStatus } from "./turn.ts";

/**
 * Shows an answer as it comes, at most once a frame. Resolves to the final state of its turn. `timed`: the answer comes as it is
 * generated, so its speed is measured; a replay comes faster.
 */
export async function streamAnswer(
  handle: ResponseHandle,
  timed: boolean,
  show: (change: Partial<Turn>) => void,
): Promise<Partial<Turn>> {
  const answer = new Answer(timed);
  let deltas = 0;
  let firstAt = 0;
  let scheduled = false;
  const flush = (): void => {
    if (!scheduled) return;
    scheduled = false;
    const now = Date.now();
    const rate = deltas > 2 && now > firstAt ? ((deltas - 1) * 1000) / (now - firstAt) : undefined;
    show({
      ...answer.content,
      status: "streaming",
      recovering: false,
      ...(rate && timed ? { tokensPerSecond: rate } : {}),
    });
  };
  try {
    for await (const event of handle) {
      if (event.type === "response.created") show({ responseId: event.response_id, retryAt: undefined });
      if (!answer.take(event)) continue;
      deltas++;
      if (firstAt === 0) {
        firstAt = Date.now();
        if (timed) show({ firstTokenAt: firstAt });
      }
      if (scheduled) continue;
      scheduled = true;
      // A hidden page paints no frames.
      if (document.hidden) setTimeout(flush, 100);
      else requestAnimationFrame(flush);
    }
  } finally {
    flush();
  }
  const response = await handle.final();
  return finished(response, answer.finished(response), timed ? Date.now() - firstAt : undefined);
}

/** Returns the state of a turn whose response has ended. */
export function finished(response: ResponseObject, content: Content, streamedMs?: number): Partial<Turn> {
  const tokens = response.usage?.output_tokens;
  const prompt = response.usage?.input_tokens ?? 0;
  const fromCache = response.usage?.input_tokens_details.cached_tokens ?? 0;
  // An engine may compute the prompt's last token again even if the whole prompt is cached.
  const cached = fromCache > 0 && fromCache >= prompt - 1;
  const timed = tokens !== undefined && tokens > 1 && streamedMs !== undefined && streamedMs > 0;
  return {
    ...content,
    status: statusOf(response),
    responseId: response.id,
    stopping: false,
    recovering: false,
    cached,
    where: response.metadata?.["where"] === "browser" ? "browser" : "server",
    loading: undefined,
    wasHandedOver: response.metadata?.["continued_from"] !== undefined,
    droppedTurns: response.truncation_details?.dropped_turns,
    ...(response.usage ? { totalTokens: response.usage.total_tokens } : {}),
    ...(tokens === undefined ? {} : { tokens }),
    ...(timed ? { tokensPerSecond: ((tokens - 1) * 1000) / streamedMs } : {}),
  };
}

function statusOf(response: ResponseObject): TurnStatus {
  if (response.status === "completed") return "done";
  return response.incomplete_details?.reason === "cancelled" ? "stopped" : "cut";
}
