/** An entry of the list of conversations. */
export interface ChatSummary {
  readonly id: string;
  readonly title: string | undefined;
  /** Unix seconds. */
  readonly createdAt: number;
  readonly metadata: Readonly<Record<string, string>>;
}
