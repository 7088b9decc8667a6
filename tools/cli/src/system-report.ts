/** What `info --verbose` says of the system: what the program can do with files here, and what is lost where not. */

interface NativeUse {
  readonly what: string;
  /** What happens where the call can not be had. */
  readonly otherwise: string;
}

const nativeUses: readonly NativeUse[] = [
  { what: 'image locks', otherwise: 'QEMU does not see that an image is in use here; its locks are seen' },
  { what: 'holes in files', otherwise: 'a discard gives no space back' },
  { what: 'zeros without writing', otherwise: 'long runs of zeros are written' },
  { what: 'where files have holes', otherwise: 'a raw file is all data' },
  { what: 'space set aside', otherwise: 'files are filled with zeros' },
  { what: 'reads that never wait', otherwise: 'all reads on this thread, or all in the pool' },
];

/** @param missing why there are no native calls; undefined where there are */
export function systemText(missing: string | undefined): string {
  const width = Math.max(...nativeUses.map((use) => use.what.length)) + 1;
  const lines = nativeUses.map(({ what, otherwise }) => {
    const name = `${what}:`.padEnd(width);
    return `    ${name} ${missing === undefined ? 'yes' : `no (${otherwise})`}`;
  });
  return ['This system:', `    native calls: ${missing ?? 'yes'}`, ...lines, ''].join('\n');
}
