// Signs people in through real providers in Chromium: every breach of the content security policy, every message
// on the console and every dialog is a failure. Says what it saw on standard output, a line each.
//
// node drive.mjs CHROMIUM BASE STEPS SCREENSHOTS
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

const { chromium } = createRequire(import.meta.url)("playwright-core");
const [executablePath, base, steps, screenshots] = process.argv.slice(2);
mkdirSync(screenshots, { recursive: true });
const wrong = [];
const check = (holds, what) => { if (!holds) wrong.push(what); };
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });

const fresh = async () => {
  const context = await browser.newContext({ viewport: { width: 1000, height: 800 } });
  context.setDefaultTimeout(20000);
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  const page = await context.newPage();
  page.on("console", (message) => {
    // A refused sign-in is an answer of 403, which Chromium notes; the provider's pages are not ours.
    const ours = page.url().startsWith(base) && !message.text().includes("403");
    if (ours && ["error", "warning"].includes(message.type())) wrong.push(`${page.url()}: console: ${message.text()}`);
  });
  page.on("pageerror", (error) => { if (page.url().startsWith(base)) wrong.push(`${page.url()}: ${error}`); });
  page.on("dialog", async (dialog) => { wrong.push(`${page.url()}: dialog ${dialog.message()}`); await dialog.dismiss(); });
  return page;
};

/// Types a name at the provider, and agrees to whatever it asks.
const atProvider = async (page, name) => {
  await page.waitForURL((url) => !url.href.startsWith(base));
  await page.locator("[name=login]").fill(name);
  const password = page.locator("[name=password]");
  if (await password.count()) await password.fill("whatever");
  await page.locator("[type=submit]").first().click();
  const consent = page.getByRole("button", { name: "Continue" });
  await Promise.race([page.waitForURL((url) => url.href.startsWith(base)), consent.waitFor().catch(() => {})]);
  if (!page.url().startsWith(base)) await consent.click();
  await page.waitForURL((url) => url.href.startsWith(base));
};

try {
  for (const { provider, name, role, refused } of JSON.parse(steps)) {
    const page = await fresh();
    // To a page that needs one to be signed in, and back to it.
    await page.goto(`${base}/hosts`);
    await page.waitForURL("**/sign-in?**");
    await page.screenshot({ path: join(screenshots, "sign-in.png") });
    await page.getByRole("link", { name: `Sign in with ${provider}` }).click();
    await atProvider(page, name);
    if (refused) {
      await page.getByRole("alert").waitFor();
      const text = await page.getByRole("alert").textContent();
      check(text.includes(refused), `${name} is told ${text}`);
      await page.screenshot({ path: join(screenshots, `refused-${name}.png`) });
      console.log(`refused ${name}`);
    } else {
      await page.waitForURL("**/hosts");
      const who = await page.locator(".who a").first().textContent();
      check(who.includes(`:${name}`) && who.includes(role), `${name} is signed in as ${who}`);
      await page.screenshot({ path: join(screenshots, `hosts-${name}.png`) });
      await page.goto(`${base}/account`);
      check(await page.locator("[name=current]").count() === 0, "a password can be changed that there is not");
      await page.screenshot({ path: join(screenshots, `account-${name}.png`) });
      await page.getByRole("button", { name: "Sign out", exact: true }).first().click();
      await page.waitForURL("**/sign-in?left=*");
      await page.screenshot({ path: join(screenshots, `left-${name}.png`) });
      await page.goto(`${base}/sessions`);
      await page.waitForURL("**/sign-in?**");
      console.log(`signed in ${name}`);
    }
    await page.context().close();
  }
} catch (error) {
  wrong.push(`${error}`);
}
await browser.close();
for (const line of wrong) console.log(`wrong: ${line}`);
console.log("looked");
