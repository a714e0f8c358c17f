/** The document of `/ws/config`: the server's features, limits and addresses. */

import { eachOf, isObject, may, must, name, number, object, text, type Check, type Shape } from "./check.js";
import { features, limits } from "./shapes.js";
import type { ServerFeatures, ServerLimits } from "./messages.js";

/** The server's configuration, from `/ws/config`. */
export interface ServerConfig {
  readonly version: string;
  readonly features: ServerFeatures;
  /** As the server names them: paths, or addresses. */
  readonly endpoints: Readonly<Record<string, string>>;
  readonly connection_limits: ServerLimits;
  readonly auth: { readonly methods: readonly string[] };
  /** Unix seconds. */
  readonly server_time: number;
  /** The addresses of other ways to the server, by the names of the ways. */
  readonly doors?: Readonly<Record<string, Readonly<Record<string, string>>>>;
}

const addresses: Check = (value, path) =>
  isObject(value) && Object.values(value).every((address) => typeof address === "string")
    ? null
    : `${path}: expected addresses`;

const endpoints: Check = (value, path) => {
  if (!isObject(value)) return `${path}: expected an object`;
  return name(value["websocket"], `${path}.websocket`) ?? addresses(value, path);
};

const doors: Check = (value, path) => {
  if (!isObject(value)) return `${path}: expected an object`;
  for (const [door, its] of Object.entries(value)) {
    const fault = addresses(its, `${path}.${door}`);
    if (fault !== null) return fault;
  }
  return null;
};

const CONFIG: Shape<ServerConfig> = {
  version: must(text),
  features: must(features),
  endpoints: must(endpoints),
  connection_limits: must(limits),
  auth: must(object<{ methods: readonly string[] }>({ methods: must(eachOf(name)) })),
  server_time: must(number),
  doors: may(doors),
};

/** The configuration, or the first fault of the document. */
export function readConfig(body: string): ServerConfig | string {
  let document: unknown;
  try {
    document = JSON.parse(body);
  } catch {
    return "$: expected JSON";
  }
  const config = isObject(document) ? document["websocket_config"] : undefined;
  return object(CONFIG)(config, "$.websocket_config") ?? (config as ServerConfig);
}

/**
 * The address of the discovery document for an application's `url`: a host, a path, or the
 * WebSocket's own address.
 */
export function discoveryAddress(absolute: string): string {
  const [, scheme = "", rest = ""] = /^(\w+:\/\/)([^?#]*)/.exec(absolute) ?? [];
  const http = scheme.toLowerCase().replace(/^ws/, "http");
  const slash = rest.indexOf("/");
  const host = slash < 0 ? rest : rest.slice(0, slash);
  const path = slash < 0 ? "" : rest.slice(slash).replace(/\/+$/, "");
  if (path.endsWith("/config")) return http + host + path;
  return `${http}${host}${path === "" ? "/ws" : path}/config`;
}

export const asWebSocketAddress = (address: string): string => address.replace(/^http/i, "ws");
export const asHttpAddress = (address: string): string => address.replace(/^ws/i, "http");
