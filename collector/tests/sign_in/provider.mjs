// An OpenID provider (oidc-provider) on a loopback port of its own. Whoever types a name is that person; which
// groups they are in stands in PEOPLE. Says its issuer on standard output, a line of JSON.
//
// node provider.mjs REDIRECT_URI SIGNED_OUT_URI PEOPLE CLAIMS_IN_ID_TOKEN
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import { generateKeyPairSync } from "node:crypto";

const [redirect, signedOut, people, inToken] = process.argv.slice(2);
const groups = JSON.parse(people);
// Found through NODE_PATH, which `import` does not look at.
const { Provider } = await import(pathToFileURL(createRequire(import.meta.url).resolve("oidc-provider")));

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const jwk = (kind, options, alg) => ({ ...generateKeyPairSync(kind, options).privateKey.export({ format: "jwk" }), use: "sig", alg });
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "interlock",
      client_secret: "a secret that the provider and the collector know",
      redirect_uris: [redirect],
      post_logout_redirect_uris: [signedOut],
    }],
    jwks: { keys: [jwk("rsa", { modulusLength: 2048 }, "RS256"), jwk("ec", { namedCurve: "P-256" }, "ES256")] },
    cookies: { keys: ["of the test"] },
    claims: { openid: ["sub"], profile: ["preferred_username", "groups"], email: ["email", "email_verified"] },
    conformIdTokenClaims: inToken !== "true",
    pkce: { required: () => true },
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, groups: groups[id] ?? [], email: `${id}@example.com`, email_verified: true }),
    }),
  });
  server.on("request", provider.callback());
  console.log(JSON.stringify({ issuer }));
});
