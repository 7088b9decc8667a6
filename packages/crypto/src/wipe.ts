/** Overwrites buffers that held a passphrase or a key, when they are done with [LUKS-KEY-010]. */
export function wipe(...buffers: readonly (Uint8Array | undefined)[]): void {
  for (const buffer of buffers) buffer?.fill(0);
}
