import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

/** Nearer to the end than this counts as being there. */
const NEAR_PX = 48;

/**
 * Keeps the end of the page in view while its content grows, until the reader scrolls up; scrolling back down to the
 * end, or `toBottom`, takes it up again.
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
    scrollToEnd();
  }, []);

  useLayoutEffect(() => {
    // A reload in mid-stream shows the end, not where the shorter page was.
    history.scrollRestoration = "manual";
    scrollToEnd();
    const observer = new ResizeObserver(() => {
      if (sticks.current) scrollToEnd();
      else setAtBottom(distanceToEnd() < NEAR_PX);
    });
    if (content.current) observer.observe(content.current);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    let last = window.scrollY;
    const onScroll = (): void => {
      const near = distanceToEnd() < NEAR_PX;
      // Only an upward move is the reader's: growing content moves nothing, and following it moves down.
      if (near) sticks.current = true;
      else if (window.scrollY < last) sticks.current = false;
      last = window.scrollY;
      setAtBottom(near || sticks.current);
    };
    window.addEventListener("scroll", onScroll, { passive: true });
    return () => window.removeEventListener("scroll", onScroll);
  }, []);

  return { content, atBottom, toBottom };
}

function distanceToEnd(): number {
  const page = document.documentElement;
  return page.scrollHeight - page.clientHeight - window.scrollY;
}

function scrollToEnd(): void {
  window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
}
