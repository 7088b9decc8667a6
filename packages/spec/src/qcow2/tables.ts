/**
 * Everything of docs/specs/qcow2/SPEC.md that stands in a table there, by the name of that table.
 * `@qcow2/conformance` compares the two, field by field.
 */
import type { BitLayout, Layout } from '../layout.ts';
import { bitmapFlagBits, bitmapHeadLayout, bitmapTableEntryBits, bitmapTypes } from './bitmaps.ts';
import {
  l1EntryBits,
  l2EntryBits,
  mappingSizes,
  standardClusterBits,
  subclusterBitmapBits,
} from './cluster-mapping.ts';
import {
  autoclearFeatureBits,
  compatibleFeatureBits,
  featureTypes,
  incompatibleFeatureBits,
} from './feature-bits.ts';
import {
  bitmapsExtensionLayout,
  encryptionHeaderPointerLayout,
  featureNameLayout,
  headerExtensionHeadLayout,
  headerExtensionTypes,
} from './header-extensions.ts';
import { compressionTypes, cryptMethods, headerLayout } from './header-layout.ts';
import { qcow2Limits } from './limits.ts';
import { refcountSizes, refcountTableEntryBits } from './refcounts.ts';
import { snapshotExtraLayout, snapshotHeadLayout } from './snapshots.ts';

export const qcow2Layouts = {
  header: headerLayout,
  'header-extension-head': headerExtensionHeadLayout,
  'feature-name': featureNameLayout,
  'bitmaps-extension': bitmapsExtensionLayout,
  'encryption-header-pointer': encryptionHeaderPointerLayout,
  'snapshot-head': snapshotHeadLayout,
  'snapshot-extra-data': snapshotExtraLayout,
  'bitmap-head': bitmapHeadLayout,
} as const satisfies Record<string, Layout>;

export const qcow2BitLayouts = {
  'incompatible-features': incompatibleFeatureBits,
  'compatible-features': compatibleFeatureBits,
  'autoclear-features': autoclearFeatureBits,
  'refcount-table-entry': refcountTableEntryBits,
  'l1-entry': l1EntryBits,
  'l2-entry': l2EntryBits,
  'standard-cluster-descriptor': standardClusterBits,
  'subcluster-bitmap': subclusterBitmapBits,
  'bitmap-flags': bitmapFlagBits,
  'bitmap-table-entry': bitmapTableEntryBits,
} as const satisfies Record<string, BitLayout>;

export const qcow2ConstantTables = {
  'crypt-methods': cryptMethods,
  'compression-types': compressionTypes,
  'feature-types': featureTypes,
  'header-extension-types': headerExtensionTypes,
  'refcount-sizes': refcountSizes,
  'mapping-sizes': mappingSizes,
  'bitmap-types': bitmapTypes,
  limits: qcow2Limits,
} as const satisfies Record<string, Record<string, number | bigint>>;
