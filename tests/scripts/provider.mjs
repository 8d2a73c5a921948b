// An OpenID provider (oidc-provider) on a loopback port of its own, with the device flow. Whoever types a name is
// that person; which groups they are in stands in PEOPLE. Says its issuer on standard output, a line of JSON.
// POST /steer with {"groups": {NAME: […]}}, {"gone": [NAME]}, {"code_seconds": N} or {"claims": {…}} (what ID
// tokens say instead of the truth) changes what it does from then on.
//
// node provider.mjs PEOPLE
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import { generateKeyPairSync } from "node:crypto";

const groups = JSON.parse(process.argv[2]);
// Found through NODE_PATH, which `import` does not look at.
const require = createRequire(import.meta.url);
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
const { SignJWT, decodeJwt, importJWK } = await import(pathToFileURL(require.resolve("jose").replace("node/cjs", "node/esm")));

const gone = new Set();
let codeSeconds = 600;
let lies = null;
const jwk = { ...generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: "one" };
const key = await importJWK(jwk, "RS256");

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "interlock",
      token_endpoint_auth_method: "none",
      application_type: "native",
      redirect_uris: ["http://127.0.0.1/signed-in"],
      grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
      response_types: ["code"],
      require_auth_time: true,
    }],
    jwks: { keys: [jwk] },
    cookies: { keys: ["of the test"] },
    scopes: ["openid", "profile", "email", "offline_access"],
    claims: { openid: ["sub"], profile: ["preferred_username", "groups"], email: ["email", "email_verified"] },
    pkce: { required: () => true },
    features: {
      devInteractions: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
    },
    ttl: { DeviceCode: () => codeSeconds, Session: 3600, Grant: 3600, Interaction: 3600, IdToken: 300, AccessToken: 300, RefreshToken: 3600 },
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed("refresh_token"),
    findAccount: (_, id) => gone.has(id) ? undefined : ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, groups: groups[id] ?? [], email: `${id}@example.com`, email_verified: true }),
    }),
  });
  provider.use(async (context, next) => {
    await next();
    // It asks for no haste; a test does.
    if (context.body?.device_code) context.body.interval = 1;
    if (lies && context.body?.id_token) {
      const claims = { ...decodeJwt(context.body.id_token), ...lies };
      for (const [name, value] of Object.entries(claims)) if (value === null) delete claims[name];
      context.body.id_token = await new SignJWT(claims).setProtectedHeader({ alg: "RS256", kid: "one" }).sign(key);
    }
  });
  const callback = provider.callback();
  server.on("request", (request, response) => {
    if (request.url !== "/steer") return callback(request, response);
    let body = "";
    request.on("data", (part) => { body += part; });
    request.on("end", () => {
      const steer = JSON.parse(body);
      Object.assign(groups, steer.groups ?? {});
      (steer.gone ?? []).forEach((name) => gone.add(name));
      codeSeconds = steer.code_seconds ?? codeSeconds;
      if ("claims" in steer) lies = steer.claims;
      response.end("done");
    });
  });
  console.log(JSON.stringify({ issuer }));
});
