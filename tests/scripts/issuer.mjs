// An issuer of jobs' tokens (oauth2-mock-server) on a loopback port of its own, and beside it an address that
// gives out tokens as GitHub's does. Says both on standard output, a line of JSON; then answers each line of
// JSON on standard input with one.
//
// {"claims": {…}, "seconds": N}  a token with these claims that lasts so long
// {"rotate": true}               the issuer signs with another key from now on, and publishes that alone
// {"stop": true}                 the issuer is away
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

// Found through NODE_PATH, which `import` does not look at.
const { OAuth2Server } = createRequire(import.meta.url)("oauth2-mock-server");

const server = new OAuth2Server();
const made = async () => (await server.issuer.keys.generate("RS256")).kid;
let kid = await made();
await server.start(0, "127.0.0.1");

const token = (claims, seconds) =>
  server.issuer.buildToken({
    kid,
    expiresIn: seconds,
    scopesOrTransform: (_, payload) => Object.assign(payload, claims),
  });

const jobs = createServer(async (request, response) => {
  const asked = new URL(request.url, "http://127.0.0.1");
  if (request.headers.authorization !== "Bearer of-the-job") {
    response.writeHead(401).end();
    return;
  }
  const claims = { aud: asked.searchParams.get("audience"), sub: "repo:shop/api:ref:refs/heads/main", repository: "shop/api", ref: "refs/heads/main", jti: `${Math.random()}` };
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ value: await token(claims, 300) }));
});
jobs.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ issuer: server.issuer.url, jobs: `127.0.0.1:${jobs.address().port}` }));
});

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.rotate) {
    const old = kid;
    kid = await made();
    // It has no way to withdraw a key.
    const keys = server.issuer.keys;
    const all = keys.toJSON.bind(keys);
    keys.toJSON = (...more) => all(...more).filter((key) => key.kid !== old);
    console.log("{}");
  } else if (asked.stop) {
    const { url } = server.issuer;
    await server.stop();
    server.issuer.url = url;
    console.log("{}");
  } else {
    console.log(JSON.stringify({ token: await token(asked.claims, asked.seconds) }));
  }
}
process.exit();
