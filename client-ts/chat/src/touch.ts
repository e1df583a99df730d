/** Whether the device has a touch keyboard, which covers half of the page and has no Shift key to hold. */
export function isTouch(): boolean {
  return matchMedia("(pointer: coarse)").matches;
}
