export { legacyAes } from './legacy-aes.ts';
export {
  type AddedKey,
  addLuksKey,
  luksHeaderBytes,
  luksMasterKey,
  luksPassphrase,
  type NewLuks,
  newLuks,
  type RemovedKey,
  removeLuksKey,
} from './luks.ts';
export type { UnlockLimits } from './luks-keys.ts';
