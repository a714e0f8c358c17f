// A real OpenID Connect provider at which a browser's user signs in, with pages for login and consent.
//
//     node login.mjs '{"port": 8080, "keys": [...], "clients": [{"id": "chat", "pages": [...]}]}'
//
// Each user name is a user with that subject. An ID token is valid for `seconds`. The access tokens of a
// client with an `audience` are JWTs for it, those of others are opaque. Prints a line of JSON when it
// listens.

import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const { port, keys, clients, seconds } = JSON.parse(process.argv[2]);
const audiences = new Map(clients.map(({ id, audience }) => [id, audience]));

const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  jwks: { keys },
  clients: clients.map(({ id, pages }) => ({
    client_id: id,
    token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    redirect_uris: pages,
    post_logout_redirect_uris: pages,
  })),
  findAccount: (_ctx, sub) => ({
    accountId: sub,
    claims: () => ({ sub, name: `${sub[0].toUpperCase()}${sub.slice(1)} Example` }),
  }),
  claims: { openid: ["sub"], profile: ["name"] },
  conformIdTokenClaims: false,
  clientBasedCORS: () => true,
  issueRefreshToken: () => true,
  cookies: { keys: ["a-key-for-the-cookies-of-a-test"] },
  ttl: { IdToken: seconds, AccessToken: seconds, Session: 600, Grant: 600, Interaction: 600, RefreshToken: 600 },
  features: {
    resourceIndicators: {
      enabled: true,
      defaultResource: (_ctx, client) => audiences.get(client.clientId),
      useGrantedResource: () => true,
      getResourceServerInfo: (_ctx, audience) => ({
        scope: "netra:talk",
        audience,
        accessTokenFormat: "jwt",
        accessTokenTTL: seconds,
      }),
    },
  },
});

const server = createServer(provider.callback());
await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
console.log(JSON.stringify({ issuer }));
