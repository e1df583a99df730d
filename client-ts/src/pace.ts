/** A hidden page paints no frames. */
const LONGEST_FRAME_MS = 100;

/** Resolves when the screen paints next; without a screen after the time of a frame. */
export function nextFrame(): Promise<unknown> {
  return new Promise((resolve) => {
    const paints = "requestAnimationFrame" in globalThis;
    if (paints) requestAnimationFrame(resolve);
    setTimeout(resolve, paints ? LONGEST_FRAME_MS : 16);
  });
}
