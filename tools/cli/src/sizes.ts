/**
 * Sizes as people write and read them, after QEMU: `1.5G` in, `1.5 GiB` out. Values are bigint on the way
 * in, because QEMU takes (and echoes) sizes up to 2^63 - 1 before it finds them too large for the format.
 */

/** A size in bytes, or why the text is none: not of the form, or 2^64 and more. */
export type ParsedSize = { readonly bytes: bigint; readonly hexSuffix: boolean } | 'invalid' | 'too large';

const suffixes = 'BKMGTPE';
const uint64Limit = 2n ** 64n;

/**
 * A whole number, or a decimal fraction with a suffix of b, k, M, G, T, P, E in either case (powers of 1024); hex
 * with 0x, without fraction. No exponents, no trailing text, leading blanks allowed, "010" is ten.
 */
export function parseSize(text: string): ParsedSize {
  const match = /^\s*\+?(?:0[xX]([0-9a-fA-F]+)|(\d+)(\.\d*)?)([a-zA-Z]?)$/.exec(text);
  if (match === null) return 'invalid';
  const [, hex, decimal, fractionText, suffix = ''] = match;
  const whole = hex === undefined ? BigInt(decimal ?? '0') : BigInt(`0x${hex}`);
  // "B" and "E" are hex digits too: the pattern gives them to the number, as QEMU does.
  const power = suffix === '' ? 0 : suffixes.indexOf(suffix.toUpperCase());
  if (power < 0) return 'invalid';
  const fraction = Number(`0${fractionText === undefined || fractionText === '.' ? '' : fractionText}`);
  if (fraction !== 0 && power === 0) return 'invalid';
  const unit = 1024n ** BigInt(power);
  const bytes = whole * unit + scaledFraction(fraction, unit);
  if (bytes >= uint64Limit) return 'too large';
  return { bytes, hexSuffix: hex !== undefined && suffix !== '' };
}

/** Rounded to the nearest byte, as QEMU does: "0.3k" is 307, "1.9999999k" is 2048. */
function scaledFraction(fraction: number, unit: bigint): bigint {
  return BigInt(Math.round(fraction * Number(unit)));
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/**
 * Three significant digits in the largest unit of which the value has about one or more: "196 KiB", "2.19 MiB".
 * The next unit takes over at 1000, not 1024, so that four digits never show.
 */
export function formatSize(bytes: number): string {
  let power = 0;
  let scaled = bytes;
  while (scaled >= 1000 && power < units.length - 1) {
    scaled /= 1024;
    power++;
  }
  return `${formatG3(scaled)} ${units[power]}`;
}

/** printf's "%.3g": three significant digits, halves to even, no trailing zeros. For values from 0 up to 1000. */
function formatG3(value: number): string {
  if (value === 0) return '0';
  const decimals = 2 - Math.floor(Math.log10(value));
  const rounded = roundHalfToEven(value * 10 ** decimals);
  // 999.5 and more: four digits before the point, which "%.3g" writes with an exponent.
  if (rounded >= 1000 && decimals === 0) return '1e+03';
  return String(rounded / 10 ** decimals);
}

/** JavaScript's own roundings take halves up. */
function roundHalfToEven(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
