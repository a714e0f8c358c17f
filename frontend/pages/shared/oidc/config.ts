// How users sign in at the OpenID Connect provider of this server.

export interface OidcConfig {
  readonly issuer: string;
  readonly client_id: string;
  readonly scope: string;
  /** The token that the server accepts. */
  readonly token: "id_token" | "access_token";
  /** The server's clock relative to this device's, in ms. */
  readonly clockSkew: number;
}

interface Document {
  readonly websocket_config?: {
    readonly auth?: { readonly oidc?: Omit<OidcConfig, "clockSkew"> };
    readonly server_time?: number;
  };
}

const ANSWER_WITHIN = 10_000; // ms

let loading: Promise<OidcConfig | null> | null = null;

/** The provider of the page's own server; null if it has none. Rejects if the server does not answer. */
export function currentConfig(): Promise<OidcConfig | null> {
  loading ??= loadConfig().catch((error: unknown) => {
    loading = null;
    throw error;
  });
  return loading;
}

async function loadConfig(): Promise<OidcConfig | null> {
  // The provider knows this page's own address, and not that of a page of another server.
  if (window.netraTrio?.url !== undefined) return null;
  const answer = await fetch("/ws/config", { signal: AbortSignal.timeout(ANSWER_WITHIN) });
  if (!answer.ok) return null;
  const { websocket_config: config } = (await answer.json()) as Document;
  const oidc = config?.auth?.oidc;
  if (oidc === undefined) return null;
  const serverTime = config?.server_time;
  return { ...oidc, clockSkew: serverTime === undefined ? 0 : serverTime * 1000 - Date.now() };
}
