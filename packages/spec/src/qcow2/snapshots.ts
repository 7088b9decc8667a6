/** Entries of the snapshot table: docs/specs/qcow2/SPEC.md, "Snapshots". */
import { defineLayout } from '../layout.ts';

/** Head of an entry; then extra data, id, name, and padding to a multiple of 8. */
export const snapshotHeadLayout = defineLayout({
  name: 'snapshot-head',
  document: 'qcow2',
  clause: 'SNP-001',
  sizeBytes: 40,
  fields: [
    { name: 'l1Offset', at: 0, type: 'u64', multipleOf: 'cluster', clause: 'SNP-002' },
    { name: 'l1Entries', at: 8, type: 'u32', clause: 'SNP-003' },
    { name: 'idLengthBytes', at: 12, type: 'u16', clause: 'SNP-004' },
    { name: 'nameLengthBytes', at: 14, type: 'u16', clause: 'SNP-005' },
    { name: 'dateSeconds', at: 16, type: 'u32', clause: 'SNP-006' },
    { name: 'dateNanoseconds', at: 20, type: 'u32', clause: 'SNP-007' },
    { name: 'vmClockNanoseconds', at: 24, type: 'mask64', clause: 'SNP-008' },
    { name: 'vmStateLengthBytes32', at: 32, type: 'u32', clause: 'SNP-009' },
    { name: 'extraDataLengthBytes', at: 36, type: 'u32', clause: 'SNP-010' },
  ],
});

/** Extra data as far as it is defined; each field is there only if the extra data reaches its end. */
export const snapshotExtraLayout = defineLayout({
  name: 'snapshot-extra-data',
  document: 'qcow2',
  clause: 'SNP-011',
  sizeBytes: 24,
  fields: [
    { name: 'vmStateLengthBytes', at: 0, type: 'u64', optional: true, clause: 'SNP-012' },
    { name: 'diskSizeBytes', at: 8, type: 'u64', optional: true, clause: 'SNP-013' },
    { name: 'instructionCount', at: 16, type: 'mask64', optional: true, clause: 'SNP-014' },
  ],
});

/** Bytes of extra data that a version 3 entry has at least: VM state size and disk size. */
export const snapshotExtraV3MinBytes = 16;
