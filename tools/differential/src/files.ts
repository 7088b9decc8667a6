/** Names in the folder of a run, which is the working directory of QEMU's programs. */
export const files = {
  image: 'disk.qcow2',
  base: 'base',
  data: 'disk.data',
  truth: 'truth.raw',
  shown: 'shown.raw',
  socket: 'nbd.sock',
} as const;

/** Of encrypted images. */
export const passphrase = 'open sesame';
