export { HttpDevice } from './http-device.ts';
export { type HttpOptions, openHttp } from './open-http.ts';
