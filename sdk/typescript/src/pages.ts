/** A page of a list, and the token of the next. */
interface Page {
  pagination?: string;
}

/** Yields what is on the pages of a list, asking for each when it is wanted. */
export async function* eachOf<P extends Page, T>(
  read: (pagination: string | undefined) => Promise<P>,
  items: (page: P) => T[],
): AsyncGenerator<T, void, undefined> {
  let pagination: string | undefined;
  do {
    const page = await read(pagination);
    yield* items(page);
    pagination = page.pagination;
  } while (pagination);
}
