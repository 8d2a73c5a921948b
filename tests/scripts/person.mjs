// Goes through an identity provider's pages as a person would in a browser: opens URL, types NAME where a name is
// asked for, agrees to the rest, and says what stands on the last page, and whether a name was asked for. With `deny`
// it refuses instead. Cookies are kept in the file that JAR names, if it does: whoever is signed in stays so.
//
// node person.mjs URL NAME [deny]
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const [start, name, deny] = process.argv.slice(2);
const kept = process.env.JAR;
const jar = new Map(kept && existsSync(kept) ? JSON.parse(readFileSync(kept)) : []);
let asked = false;

const open = async (url, options = {}) => {
  for (let hop = 0; hop < 20; hop += 1) {
    const own = new URL(url).origin === new URL(start).origin;
    const headers = { ...options.headers };
    if (own) headers.cookie = [...jar].map(([key, value]) => `${key}=${value}`).join("; ");
    const response = await fetch(url, { ...options, headers, redirect: "manual" });
    if (own) {
      for (const line of response.headers.getSetCookie()) {
        const [key, ...value] = line.split(";")[0].split("=");
        jar.set(key, value.join("="));
      }
    }
    const next = response.headers.get("location");
    if (!next) return { url, status: response.status, text: await response.text() };
    url = new URL(next, url).href;
    options = {};
  }
  throw new Error("too many redirections");
};

let page = await open(start);
for (let step = 0; step < 10; step += 1) {
  const form = page.text.match(/<form[^>]*action="([^"]*)"[^>]*>([\s\S]*?)<\/form>/);
  if (!form || !page.url.startsWith(new URL(start).origin)) break;
  const fields = new URLSearchParams();
  for (const input of form[2].matchAll(/<input[^>]*>/g)) {
    const attribute = (key) => input[0].match(new RegExp(`${key}="([^"]*)"`))?.[1];
    if (attribute("name")) fields.set(attribute("name"), attribute("value") ?? "");
  }
  if (fields.has("login")) { asked = true; fields.set("login", name); fields.set("password", "whatever"); }
  let target = new URL(form[1], page.url).href;
  if (deny && fields.has("confirm")) { fields.delete("confirm"); fields.set("abort", "yes"); }
  if (deny && fields.has("prompt")) { page = await open(`${page.url}/abort`); break; }
  page = await open(target, { method: "POST", body: fields.toString(), headers: { "content-type": "application/x-www-form-urlencoded" } });
}
if (kept) writeFileSync(kept, JSON.stringify([...jar]));
console.log(JSON.stringify({ asked, status: page.status, url: page.url, title: page.text.match(/<h1>([^<]*)<\/h1>/)?.[1] ?? "" }));
