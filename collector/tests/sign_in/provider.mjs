// An OpenID provider (oidc-provider) on a loopback port of its own. Whoever types a name is that person; which
// groups they are in stands in PEOPLE. Says its issuer on standard output, a line of JSON.
// POST /steer with {"groups": {NAME: […]}}, {"claims": {…}} (what ID tokens say instead of the truth),
// {"authenticated": SECONDS} (when somebody has signed in, by their word) or {"age": SECONDS} (whoever is signed in has
// been so for so much longer) changes what it does from then on.
//
// node provider.mjs REDIRECT_URI SIGNED_OUT_URI PEOPLE CLAIMS_IN_ID_TOKEN
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import { generateKeyPairSync } from "node:crypto";

const [redirect, signedOut, people, inToken] = process.argv.slice(2);
const groups = JSON.parse(people);
// Found through NODE_PATH, which `import` does not look at.
const require = createRequire(import.meta.url);
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
const { SignJWT, decodeJwt, importJWK } = await import(pathToFileURL(require.resolve("jose").replace("node/cjs", "node/esm")));

let lies = null;
let older = null;

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const jwk = (kind, options, alg) => ({ ...generateKeyPairSync(kind, options).privateKey.export({ format: "jwk" }), use: "sig", alg, kid: alg });
  const first = jwk("rsa", { modulusLength: 2048 }, "RS256");
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "interlock",
      client_secret: "a secret that the provider and the collector know",
      redirect_uris: [redirect],
      post_logout_redirect_uris: [signedOut],
      require_auth_time: true,
    }],
    jwks: { keys: [first, jwk("ec", { namedCurve: "P-256" }, "ES256")] },
    cookies: { keys: ["of the test"] },
    claims: { openid: ["sub"], profile: ["preferred_username", "groups"], email: ["email", "email_verified"] },
    conformIdTokenClaims: inToken !== "true",
    pkce: { required: () => true },
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, ...(groups[id] === null ? {} : { groups: groups[id] ?? [] }), email: `${id}@example.com`, email_verified: true }),
    }),
  });
  provider.use(async (context, next) => {
    await next();
    if (!context.body?.id_token || !(lies || older)) return;
    const claims = { ...decodeJwt(context.body.id_token), ...lies };
    if (older && claims.auth_time <= older.since) claims.auth_time -= older.by;
    for (const [name, value] of Object.entries(claims)) if (value === null) delete claims[name];
    const key = await importJWK(first, "RS256");
    context.body.id_token = await new SignJWT(claims).setProtectedHeader({ alg: "RS256", kid: "RS256" }).sign(key);
  });
  const callback = provider.callback();
  server.on("request", (request, response) => {
    if (request.url !== "/steer") return callback(request, response);
    let body = "";
    request.on("data", (part) => { body += part; });
    request.on("end", () => {
      const steer = JSON.parse(body);
      Object.assign(groups, steer.groups ?? {});
      if ("claims" in steer) lies = steer.claims;
      if ("authenticated" in steer) lies = steer.authenticated === null ? null : { auth_time: steer.authenticated };
      if (steer.age) older = { since: Math.floor(Date.now() / 1000), by: steer.age };
      // Whoever signs in from now on does so in another second.
      setTimeout(() => response.end("done"), steer.age ? 1050 - (Date.now() % 1000) : 0);
    });
  });
  console.log(JSON.stringify({ issuer }));
});
