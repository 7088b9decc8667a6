/** GUIDs as VHDX stores them: the first three groups little-endian. */

const groupOrder = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

export const guidBytes = 16;

/** As text, in small letters. */
export function guidText(bytes: Uint8Array): string {
  const digits = groupOrder.map((at) => bytes[at]!.toString(16).padStart(2, '0')).join('');
  return [8, 12, 16, 20, 32].map((end, i) => digits.slice([0, 8, 12, 16, 20][i], end)).join('-');
}
