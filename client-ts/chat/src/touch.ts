/** Where a focused text box opens a keyboard over half of the page, and where there is no Shift to hold. */
export function isTouch(): boolean {
  return matchMedia("(pointer: coarse)").matches;
}
