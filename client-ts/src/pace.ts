/** The longest wait for a frame: a hidden page paints none. */
const LONGEST_FRAME_MS = 100;

/** Resolves at the screen's next frame; without a screen, after 16 ms. */
export function nextFrame(): Promise<unknown> {
  return new Promise((resolve) => {
    const paints = "requestAnimationFrame" in globalThis;
    if (paints) requestAnimationFrame(resolve);
    setTimeout(resolve, paints ? LONGEST_FRAME_MS : 16);
  });
}
