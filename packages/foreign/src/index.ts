export { type ForeignExtent, type ForeignFile, type ForeignFormat, ForeignImage } from './foreign-image.ts';
export { looksLikeDescriptor } from './internal/vmdk-descriptor.ts';
export { type ForeignOptions, openForeign } from './open-foreign.ts';
export type { ExtentResolver, VmdkExtentFacts, VmdkFacts } from './vmdk.ts';
