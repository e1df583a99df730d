import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

/** Within this distance the page counts as scrolled to its end. */
const NEAR_PX = 48;

/**
 * Keeps the end of the page in view while its content grows, until the user scrolls up. Scrolling down to the end, or `toBottom`,
 * starts that again.
 */
export function useStickToBottom(): {
  content: RefObject<HTMLDivElement | null>;
  atBottom: boolean;
  toBottom: () => void;
} {
  const content = useRef<HTMLDivElement>(null);
  const sticks = useRef(true);
  const [atBottom, setAtBottom] = useState(true);

  const toBottom = useCallback(() => {
    sticks.current = true;
    setAtBottom(true);
    scrollToEnd(scrollerOf(content.current));
  }, []);

  useLayoutEffect(() => {
    // A reload during a stream shows the end, not the position in the shorter page.
    history.scrollRestoration = "manual";
    const scroller = scrollerOf(content.current);
    scrollToEnd(scroller);
    const observer = new ResizeObserver(() => {
      if (sticks.current) scrollToEnd(scroller);
      else setAtBottom(distanceToEnd(scroller) < NEAR_PX);
    });
    if (content.current) observer.observe(content.current);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    const scroller = scrollerOf(content.current);
    const source = scroller === document.documentElement ? window : scroller;
    let last = scroller.scrollTop;
    const onScroll = (): void => {
      const near = distanceToEnd(scroller) < NEAR_PX;
      // Only the user scrolls up: growing content does not scroll, and following it scrolls down.
      if (near) sticks.current = true;
      else if (scroller.scrollTop < last) sticks.current = false;
      last = scroller.scrollTop;
      setAtBottom(near || sticks.current);
    };
    source.addEventListener("scroll", onScroll, { passive: true });
    return () => source.removeEventListener("scroll", onScroll);
  }, []);

  return { content, atBottom, toBottom };
}

/** Returns the element that scrolls: the chat element itself if it is part of another page, else the document. */
function scrollerOf(content: Element | null): Element {
  return content?.closest(".scroller") ?? document.documentElement;
}

function distanceToEnd(scroller: Element): number {
  return scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
}

function scrollToEnd(scroller: Element): void {
  scroller.scrollTo({ top: scroller.scrollHeight, behavior: "instant" });
}
