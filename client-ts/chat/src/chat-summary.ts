/** A conversation as a list shows it. */
export interface ChatSummary {
  readonly id: string;
  readonly title: string | undefined;
  /** Unix seconds. */
  readonly createdAt: number;
  readonly metadata: Readonly<Record<string, string>>;
}
