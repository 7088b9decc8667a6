export { compileLayout, fieldBytes, type LayoutCodec, type LayoutOptions } from './layout-codec.ts';
