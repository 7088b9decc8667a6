/**
 * CRC32C (Castagnoli), the checksum of journal v1: reflected polynomial 0x82f63b78, initial value and
 * final xor 0xffffffff (JRN-CRC-001).
 *
 * Every flushed byte passes through here once, so the loop matters: sixteen tables ("slicing by 16")
 * consume four 32-bit words a step, read through an aligned Int32Array where the host is little-endian
 * and the buffer allows it, and byte by byte at the ragged ends.
 * The same loop in WebAssembly was 1.2 to 1.3 times as quick for 4 KiB and more; it would have to be copied into, and pages may
 * forbid it: left out.
 */
const polynomial = 0x82f63b78;
const littleEndianHost = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** `tables[k]` advances a byte's contribution past k further zero bytes. */
function makeTables(count: number): Int32Array[] {
  const first = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ polynomial : crc >>> 1;
    first[byte] = crc;
  }
  const tables = [first];
  for (let k = 1; k < count; k++) {
    const before = tables[k - 1] as Int32Array;
    tables.push(before.map((crc) => (crc >>> 8) ^ (first[crc & 255] as number)));
  }
  return tables;
}

// One constant a table: the engine keeps their addresses in the compiled loop, where an array of tables
// would be looked up at every byte.
const [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15] = makeTables(16) as [
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
];

/**
 * CRC32C of `bytes`, as an unsigned 32-bit number.
 *
 * `seed` is the CRC of what came before: `crc32c(b, crc32c(a))` is the CRC of a followed by b. The buffer
 * is only read.
 */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  let crc = ~seed;
  let at = 0;
  const end = bytes.length;
  if (littleEndianHost && end >= 64) {
    const ragged = -bytes.byteOffset & 3;
    while (at < ragged) crc = (crc >>> 8) ^ (t0[(crc ^ (bytes[at++] as number)) & 255] as number);
    const words = new Int32Array(bytes.buffer, bytes.byteOffset + at, (end - at) >> 2);
    const wholeSteps = words.length & ~3;
    crc = crcOfWords(words, wholeSteps, crc);
    at += wholeSteps * 4;
  }
  while (at < end) crc = (crc >>> 8) ^ (t0[(crc ^ (bytes[at++] as number)) & 255] as number);
  return ~crc >>> 0;
}

/** The raw register after `count` little-endian words; `count` is a multiple of four. */
function crcOfWords(words: Int32Array, count: number, register: number): number {
  let crc = register;
  for (let i = 0; i < count; i += 4) {
    const a = (words[i] as number) ^ crc;
    const b = words[i + 1] as number;
    const c = words[i + 2] as number;
    const d = words[i + 3] as number;
    crc =
      (t15[a & 255] as number) ^
      (t14[(a >>> 8) & 255] as number) ^
      (t13[(a >>> 16) & 255] as number) ^
      (t12[a >>> 24] as number) ^
      (t11[b & 255] as number) ^
      (t10[(b >>> 8) & 255] as number) ^
      (t9[(b >>> 16) & 255] as number) ^
      (t8[b >>> 24] as number) ^
      (t7[c & 255] as number) ^
      (t6[(c >>> 8) & 255] as number) ^
      (t5[(c >>> 16) & 255] as number) ^
      (t4[c >>> 24] as number) ^
      (t3[d & 255] as number) ^
      (t2[(d >>> 8) & 255] as number) ^
      (t1[(d >>> 16) & 255] as number) ^
      (t0[d >>> 24] as number);
  }
  return crc;
}

/**
 * The CRC of what `seed` is the CRC of, followed by `count` zero bytes, without going through them: a record is
 * filled up to whole blocks, and half of a small one is zeros. A zero byte changes the register by a linear
 * map; the map of 2^k of them is 32 words, made once by squaring.
 */
export function crc32cOfZeros(count: number, seed: number): number {
  let register = ~seed;
  for (let k = 0, rest = count; rest > 0; k++, rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) register = mapped(zeroMap(k), register);
  }
  return ~register >>> 0;
}

/** By k: images of the 32 register bits under 2^k zero bytes. */
const zeroMaps: Int32Array[] = [];

function zeroMap(k: number): Int32Array {
  let map = zeroMaps[k];
  if (map === undefined) {
    map = new Int32Array(32);
    const half = k === 0 ? undefined : zeroMap(k - 1);
    for (let bit = 0; bit < 32; bit++) {
      const one = 1 << bit;
      map[bit] =
        half === undefined ? (one >>> 8) ^ (t0[one & 255] as number) : mapped(half, half[bit] as number);
    }
    zeroMaps[k] = map;
  }
  return map;
}

function mapped(map: Int32Array, register: number): number {
  let image = 0;
  for (let bit = 0, rest = register; rest !== 0; bit++, rest >>>= 1) {
    image ^= (map[bit] as number) & -(rest & 1);
  }
  return image;
}
