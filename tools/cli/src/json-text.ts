/**
 * JSON as QEMU prints it: four blanks of indentation, a line for each member, and an empty list or object
 * still on two lines. Members come in the order of the object; it is the caller's affair to choose
 * qemu-img's, which sorts by a hash.
 */
export type JsonValue =
  | string
  | number
  | bigint
  | boolean
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue | undefined };

/** Members whose value is undefined are left out. No line break at the end. */
export function jsonText(value: JsonValue, depth = 0): string {
  const indent = '    '.repeat(depth);
  if (typeof value === 'string') return quote(value);
  if (typeof value !== 'object') return String(value);
  const items = Array.isArray(value)
    ? value.map((item: JsonValue) => jsonText(item, depth + 1))
    : Object.entries(value)
        .filter((member): member is [string, JsonValue] => member[1] !== undefined)
        .map(([key, member]) => `${quote(key)}: ${jsonText(member, depth + 1)}`);
  const body = items.map((item) => `${indent}    ${item}`).join(',\n');
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  return `${open}\n${body === '' ? '' : `${body}\n`}${indent}${close}`;
}

/** QEMU escapes everything outside printable ASCII, as \uXXXX where there is no letter for it. */
function quote(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`,
  );
}
