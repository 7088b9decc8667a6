/** Entries of L1 and L2 tables: docs/specs/qcow2/SPEC.md, "Cluster mapping" and "Extended L2 entries". */
import { defineBits } from '../layout.ts';

export const l1EntryBits = defineBits({
  name: 'l1-entry',
  document: 'qcow2',
  clause: 'L1E-001',
  widthBits: 64,
  bits: [
    { name: 'reservedLow', bit: 0, width: 9, reserved: 'must-be-zero', clause: 'L1E-002' },
    { name: 'l2TableOffset', bit: 9, width: 47, clause: 'L1E-003' },
    { name: 'reservedHigh', bit: 56, width: 7, reserved: 'must-be-zero', clause: 'L1E-002' },
    { name: 'copied', bit: 63, width: 1, clause: 'L1E-004' },
  ],
});

/** An L2 entry, whichever kind of cluster it describes. */
export const l2EntryBits = defineBits({
  name: 'l2-entry',
  document: 'qcow2',
  clause: 'L2E-001',
  widthBits: 64,
  bits: [
    { name: 'clusterDescriptor', bit: 0, width: 62, clause: 'L2E-002' },
    { name: 'compressed', bit: 62, width: 1, clause: 'L2E-003' },
    { name: 'copied', bit: 63, width: 1, clause: 'L2E-004' },
  ],
});

/** The cluster descriptor of a standard cluster, standing in bits 0 to 61 of its L2 entry. */
export const standardClusterBits = defineBits({
  name: 'standard-cluster-descriptor',
  document: 'qcow2',
  clause: 'L2E-005',
  widthBits: 64,
  bits: [
    { name: 'readsAsZeros', bit: 0, width: 1, clause: 'L2E-006' },
    { name: 'reservedLow', bit: 1, width: 8, reserved: 'must-be-zero', clause: 'L2E-007' },
    { name: 'hostClusterOffset', bit: 9, width: 47, clause: 'L2E-008' },
    { name: 'reservedHigh', bit: 56, width: 6, reserved: 'must-be-zero', clause: 'L2E-007' },
    { name: 'entryBits', bit: 62, width: 2, clause: 'L2E-002' },
  ],
});

/** The second half of an extended L2 entry of a standard cluster; bit n is sub-cluster n, bit 32 + n too. */
export const subclusterBitmapBits = defineBits({
  name: 'subcluster-bitmap',
  document: 'qcow2',
  clause: 'SUB-003',
  widthBits: 64,
  bits: [
    { name: 'allocated', bit: 0, width: 32, clause: 'SUB-004' },
    { name: 'readsAsZeros', bit: 32, width: 32, clause: 'SUB-005' },
  ],
});

/** Sizes that the mapping tables are made of. */
export const mappingSizes = {
  l1EntryBytes: 8,
  l2EntryBytes: 8,
  extendedL2EntryBytes: 16,
  subclustersPerCluster: 32,
  extendedL2MinClusterBits: 14,
  compressedSectorBytes: 512,
} as const;
