import type { ReactNode } from "react";

function Icon({ children }: { children: ReactNode }): ReactNode {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      {children}
    </svg>
  );
}

export const ArrowUp = (): ReactNode => (
  <Icon>
    <path d="M12 19V5M5.5 11.5 12 5l6.5 6.5" />
  </Icon>
);
export const ArrowDown = (): ReactNode => (
  <Icon>
    <path d="M12 5v14M5.5 12.5 12 19l6.5-6.5" />
  </Icon>
);
export const Stop = (): ReactNode => (
  <Icon>
    <rect x="7" y="7" width="10" height="10" rx="2" fill="currentColor" />
  </Icon>
);
export const Copy = (): ReactNode => (
  <Icon>
    <rect x="9" y="9" width="11" height="11" rx="2.5" />
    <path d="M15 5.5A1.5 1.5 0 0 0 13.5 4h-8A1.5 1.5 0 0 0 4 5.5v8A1.5 1.5 0 0 0 5.5 15" />
  </Icon>
);
export const Check = (): ReactNode => (
  <Icon>
    <path d="m5 12.5 4.5 4.5L19 7.5" />
  </Icon>
);
export const Again = (): ReactNode => (
  <Icon>
    <path d="M19.5 12a7.5 7.5 0 1 1-2.2-5.3L20 9.3M20 4.5v4.8h-4.8" />
  </Icon>
);
export const Pencil = (): ReactNode => (
  <Icon>
    <path d="M13 5H6.5A2.5 2.5 0 0 0 4 7.5v10A2.5 2.5 0 0 0 6.5 20h10a2.5 2.5 0 0 0 2.5-2.5V11M10 14l.6-2.9L17.8 4l2.2 2.2-7.1 7.2z" />
  </Icon>
);
export const Chevron = (): ReactNode => (
  <Icon>
    <path d="m9.5 6.5 5.5 5.5-5.5 5.5" />
  </Icon>
);
export const Braces = (): ReactNode => (
  <Icon>
    <path d="M9 4.5c-2.5 0-2.5 1.5-2.5 3.5s0 3.5-2 4c2 .5 2 2 2 4s0 3.5 2.5 3.5M15 4.5c2.5 0 2.5 1.5 2.5 3.5s0 3.5 2 4c-2 .5-2 2-2 4s0 3.5-2.5 3.5" />
  </Icon>
);
export const Menu = (): ReactNode => (
  <Icon>
    <path d="M4 7h16M4 12h16M4 17h16" />
  </Icon>
);
export const Sliders = (): ReactNode => (
  <Icon>
    <path d="M4 8h9M17 8h3M4 16h3M11 16h9" />
    <circle cx="15" cy="8" r="2" />
    <circle cx="9" cy="16" r="2" />
  </Icon>
);
export const Dots = (): ReactNode => (
  <Icon>
    <path d="M6 12h.01M12 12h.01M18 12h.01" strokeWidth="3" />
  </Icon>
);
export const Bin = (): ReactNode => (
  <Icon>
    <path d="M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7" />
  </Icon>
);
export const Clip = (): ReactNode => (
  <Icon>
    <path d="m19 11-7.5 7.5a4.2 4.2 0 0 1-6-6L13 5a2.8 2.8 0 0 1 4 4l-7.4 7.4a1.4 1.4 0 0 1-2-2L14 8" />
  </Icon>
);
export const Cross = (): ReactNode => (
  <Icon>
    <path d="m6.5 6.5 11 11M17.5 6.5l-11 11" />
  </Icon>
);
export const Forward = (): ReactNode => (
  <Icon>
    <path d="m5 6 7 6-7 6zM13 6l7 6-7 6z" />
  </Icon>
);
export const Keys = (): ReactNode => (
  <Icon>
    <rect x="3" y="6.5" width="18" height="11" rx="2.5" />
    <path d="M7 10h.01M10.3 10h.01M13.7 10h.01M17 10h.01M8 14h8" />
  </Icon>
);
export const Back = (): ReactNode => (
  <Icon>
    <path d="M14.5 6.5 9 12l5.5 5.5" />
  </Icon>
);
export const Waves = (): ReactNode => (
  <svg className="waves" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
    <path d="M4 10c4-3.6 8-3.6 12 0s8 3.6 12 0" />
    <path d="M4 16.5c4-3.6 8-3.6 12 0s8 3.6 12 0" opacity=".7" />
    <path d="M4 23c4-3.6 8-3.6 12 0s8 3.6 12 0" opacity=".4" />
  </svg>
);
