export type { NbdServerCounters } from './counters.ts';
export type { NbdExport } from './export.ts';
export type { NbdMetadataContext, StatusRun } from './metadata-context.ts';
export type { CommandName } from './protocol.ts';
export { nbdDefaultPort } from './protocol.ts';
export type { NbdClient, NbdRequestFailure, NbdServer, NbdServerOptions } from './server.ts';
export { createNbdServer } from './server.ts';
export type { NbdAddress } from './uri.ts';
export { nbdUri } from './uri.ts';
