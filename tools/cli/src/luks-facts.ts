/** What `info` shows of a LUKS header: which ciphers, which key slots, never a key. */
import type { LuksHeader } from '@qcow2/codec';
import { luksConstants } from '@qcow2/spec';

export interface LuksSlotFacts {
  readonly active: boolean;
  /** PBKDF2 iterations; said of active slots only. */
  readonly iterations: number;
  readonly stripes: number;
  /** Bytes from the LUKS header's start. */
  readonly keyOffset: number;
}

export interface LuksFacts {
  readonly cipherAlgorithm: string;
  readonly cipherMode: string;
  readonly ivGenerator: string;
  readonly ivHash?: string | undefined;
  readonly hash: string;
  readonly uuid: string;
  readonly payloadOffset: number;
  readonly masterKeyIterations: number;
  readonly slots: readonly LuksSlotFacts[];
}

export function luksFacts(header: LuksHeader): LuksFacts {
  const { cipherName, cipherMode, ivGenerator, ivHash } = header;
  // XTS uses a key of two halves; the cipher is named by the half.
  const bits = cipherMode === 'xts' ? header.keyBytes * 4 : header.keyBytes * 8;
  return {
    cipherAlgorithm: `${cipherName}-${bits}`,
    cipherMode,
    ivGenerator,
    ivHash,
    hash: header.hashName,
    uuid: header.uuid,
    payloadOffset: header.payloadOffset,
    masterKeyIterations: header.digestIterations,
    slots: header.slots.map(({ active, iterations, materialOffset }) => ({
      active,
      iterations,
      stripes: luksConstants.stripes,
      keyOffset: materialOffset,
    })),
  };
}
