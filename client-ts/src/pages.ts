/** Paged lists. */

export interface PageQuery {
  /** The most entries of a page, 1 to 100. Default 20. */
  limit?: number;
  /** The last id of the previous page. */
  after?: string;
  order?: "asc" | "desc";
}

export interface Page<T> {
  object: "list";
  data: readonly T[];
  first_id: string | null;
  last_id: string | null;
  has_more: boolean;
}

/** Yields every entry; fetches each page when it is needed. */
export async function* everyOne<T>(
  list: (query: PageQuery) => Promise<Page<T>>,
  query: PageQuery,
): AsyncGenerator<T, void, undefined> {
  for (let after = query.after; ; ) {
    const page = await list(after === undefined ? query : { ...query, after });
    yield* page.data;
    if (!page.has_more || page.last_id === null || page.last_id === after) return;
    after = page.last_id;
  }
}
