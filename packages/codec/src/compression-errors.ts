/** Errors about compressed data, in one shape whoever finds them. */
import { compressionTypes, FormatError, UnsupportedFeatureError } from '@qcow2/spec';

export function unservedCompression(type: number): UnsupportedFeatureError {
  const name = Object.entries(compressionTypes).find(([, value]) => value === type)?.[0];
  const feature = `compression type ${name ?? type}`;
  return new UnsupportedFeatureError(
    'UNSUPPORTED_FEATURE',
    'clusters compressed like this are not served here',
    {
      feature,
      clause: 'CMP-006',
    },
  );
}

export function damagedCluster(message: string, cause?: unknown): FormatError {
  return new FormatError('COMPRESSED_DAMAGED', message, { clause: 'CMP-008' }, cause);
}
