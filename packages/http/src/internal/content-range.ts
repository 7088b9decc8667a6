/** The header that says which bytes a response brings: `bytes 0-499/1234`, or `bytes` with a star for none. */
export interface ContentRange {
  /** Undefined where the response brings no bytes: the range that was asked for is not there. */
  readonly range: { readonly offset: number; readonly lengthBytes: number } | undefined;
  /** Undefined where the server does not know. */
  readonly sizeBytes: number | undefined;
}

/** @returns undefined for anything that is not this header with numbers that can be true */
export function parseContentRange(text: string | null): ContentRange | undefined {
  const match = /^bytes (?:(\d{1,16})-(\d{1,16})|\*)\/(\d{1,16}|\*)$/.exec(text?.trim() ?? '');
  if (match === null) return undefined;
  const [, first, last, size] = match;
  const sizeBytes = size === '*' ? undefined : Number(size);
  if (sizeBytes !== undefined && !Number.isSafeInteger(sizeBytes)) return undefined;
  if (first === undefined || last === undefined) return { range: undefined, sizeBytes };
  const offset = Number(first);
  const lengthBytes = Number(last) - offset + 1;
  if (!Number.isSafeInteger(offset + lengthBytes) || lengthBytes < 1) return undefined;
  if (sizeBytes !== undefined && offset + lengthBytes > sizeBytes) return undefined;
  return { range: { offset, lengthBytes }, sizeBytes };
}
