/** The document of `/ws/config`: what the server can do, and where. */

import type { ServerConfig } from "../core/snapshot.js";
import { eachOf, isObject, must, name, number, object, text, type Check, type Shape } from "./check.js";
import { features, limits } from "./decode.js";

const endpoints: Check = (value, path) => {
  if (!isObject(value)) return `${path}: expected an object`;
  return (
    name(value["websocket"], `${path}.websocket`) ??
    (Object.values(value).every((address) => typeof address === "string")
      ? null
      : `${path}: expected addresses`)
  );
};

const CONFIG: Shape<ServerConfig> = {
  version: must(text),
  features: must(features),
  endpoints: must(endpoints),
  connection_limits: must(limits),
  auth: must(object<{ methods: readonly string[] }>({ methods: must(eachOf(name)) })),
  server_time: must(number),
};

/** The configuration, or what is wrong with the document. */
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
 * The address of the discovery document for what an application gave as `url`: a host, a page's
 * path or the WebSocket's own address.
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
