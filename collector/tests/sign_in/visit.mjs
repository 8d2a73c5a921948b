// Signs somebody in and decides on requests without a browser, so that what a browser would hand on can be changed on
// the way. Cookies stay from step to step. Says what came of each step on standard output, a line of JSON: whether
// the provider asked for a name, and the last page's status and text.
//
// {"open": PATH, "name": NAME, "drop": [PARAMETER], "unforce": true}  signs in; parameters of the way to the provider
//                                                                     are left out, ForceAuthn is taken away
// {"replay": true}                                                    hands on the provider's last answer once more
// {"approve": ID}                                                     approves a request
// {"steer": URL, "to": {…}}                                           changes what the provider does
//
// node visit.mjs BASE STEPS
import { deflateRawSync, inflateRawSync } from "node:zlib";

const [base, steps] = process.argv.slice(2);
const jars = new Map();
let asked = 0;
let last = null;
let step = {};

const jar = (url) => {
  const { origin } = new URL(url);
  if (!jars.has(origin)) jars.set(origin, new Map());
  return jars.get(origin);
};

const onTheWay = (url) => {
  const to = new URL(url);
  if (to.origin === base) return url;
  for (const name of step.drop ?? []) to.searchParams.delete(name);
  const request = to.searchParams.get("SAMLRequest");
  if (step.unforce && request) {
    const xml = inflateRawSync(Buffer.from(request, "base64")).toString().replace(' ForceAuthn="true"', "");
    to.searchParams.set("SAMLRequest", deflateRawSync(Buffer.from(xml)).toString("base64"));
  }
  return to.href;
};

const unescaped = (text) => text.replaceAll("&quot;", '"').replaceAll("&#34;", '"').replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&#38;", "&").replaceAll("&amp;", "&");

const fetchOnce = async (url, options) => {
  const kept = jar(url);
  const headers = { ...options.headers, cookie: [...kept].map(([key, value]) => `${key}=${value}`).join("; ") };
  const response = await fetch(url, { ...options, headers, redirect: "manual" });
  for (const line of response.headers.getSetCookie()) {
    const [key, ...value] = line.split(";")[0].split("=");
    kept.set(key, value.join("="));
  }
  return response;
};

const open = async (start, options = {}) => {
  let url = start;
  for (let hop = 0; hop < 30; hop += 1) {
    url = onTheWay(url);
    if (url.startsWith(base) && /\/(callback|consume)(\?|$)/.test(url)) last = { url, options, cookies: new Map(jar(url)) };
    const response = await fetchOnce(url, options);
    const next = response.headers.get("location");
    const text = next ? "" : await response.text();
    const page = { status: response.status, url, text };
    const leads = text.match(/http-equiv="refresh" content="0;url=([^"]*)"/);
    const form = text.match(/<form[^>]*action="([^"]*)"[^>]*>([\s\S]*?)<\/form>/);
    const theirs = !url.startsWith(base) && form;
    if (next) [url, options] = [new URL(next, url).href, {}];
    else if (leads) [url, options] = [new URL(unescaped(leads[1]), url).href, {}];
    else if (theirs) {
      const fields = new URLSearchParams();
      for (const input of form[2].matchAll(/<input[^>]*>/g)) {
        const attribute = (key) => input[0].match(new RegExp(`${key}="([^"]*)"`))?.[1];
        if (attribute("name")) fields.set(attribute("name"), unescaped(attribute("value") ?? ""));
      }
      if (fields.has("login")) { asked += 1; fields.set("login", step.name); fields.set("password", "whatever"); }
      url = new URL(unescaped(form[1]), url).href;
      options = { method: "POST", body: fields.toString(), headers: { "content-type": "application/x-www-form-urlencoded" } };
    } else return page;
  }
  throw new Error(`${start} leads nowhere`);
};

const approve = async (id) => {
  const page = await open(`${base}/approvals/${id}`);
  const secret = page.text.match(/name="csrf" value="([^"]*)"/);
  if (!secret) return page;
  // Whether the page offers it or not.
  const headers = { "content-type": "application/x-www-form-urlencoded", origin: base, "sec-fetch-site": "same-origin" };
  return open(`${base}/approvals/${id}/approve`, { method: "POST", headers, body: new URLSearchParams({ csrf: secret[1], reason: "looked at" }).toString() });
};

for (step of JSON.parse(steps)) {
  asked = 0;
  let page;
  if (step.open) page = await open(`${base}${step.open}`);
  else if (step.approve) page = await approve(step.approve);
  else if (step.replay) {
    // With the cookies of then: who began it may have kept them.
    jars.set(base, last.cookies);
    page = await open(last.url, last.options);
  }
  else {
    const response = await fetch(step.steer, { method: "POST", body: JSON.stringify(step.to) });
    page = { status: response.status, url: step.steer, text: await response.text() };
  }
  console.log(JSON.stringify({ asked, status: page.status, url: page.url, text: page.text.slice(0, 20000) }));
}
