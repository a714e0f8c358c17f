// A real identity provider on this machine: tokens of each algorithm, for who asks as a client.
//
//     node identity.mjs '{"port": 8080, "keys": [...], "client": "alice", "secret": "..."}'
//
// Prints a line of JSON when it listens: its port, which is a free one where 0 was asked for.

import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const { port, keys, client, secret, audience } = JSON.parse(process.argv[2]);

const server = createServer();
await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  jwks: { keys },
  clients: [
    {
      client_id: client,
      client_secret: secret,
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // The resource's name ends with the algorithm that its tokens are signed with.
      getResourceServerInfo: (_ctx, resource) => ({
        scope: "netra:talk",
        audience,
        accessTokenFormat: "jwt",
        accessTokenTTL: 600,
        jwt: { sign: { alg: resource.split("/").pop() } },
      }),
    },
  },
});

server.on("request", provider.callback());
console.log(JSON.stringify({ port: server.address().port, issuer }));
