// Drives the collector's pages in Chromium: as a reviewer would, with a mouse, by keyboard, on a narrow
// screen, in the dark. Every message on the console, every dialog and every breach of the content security
// policy is a failure. Says what it does on standard output, a line each; the test reads these.
//
// node drive.mjs CHROMIUM BASE SETUP_PATH SESSION HOSTILE_SESSION LIVE_SESSION HOST TERMINAL_SESSION SCREENSHOTS
import { createRequire } from "node:module";
import { createInterface } from "node:readline/promises";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

// Found through NODE_PATH, which `import` does not look at.
const { chromium } = createRequire(import.meta.url)("playwright-core");
const [executablePath, base, setup, session, hostile, live, host, terminal, screenshots] = process.argv.slice(2);
mkdirSync(screenshots, { recursive: true });
const password = "correct horse battery staple";
const wrong = [];
const check = (holds, what) => { if (!holds) wrong.push(what); };
const input = createInterface({ input: process.stdin });
const lines = input[Symbol.asyncIterator]();

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, colorScheme: "light" });
context.setDefaultTimeout(20000);
await context.addInitScript(() => {
  document.addEventListener("securitypolicyviolation", (event) => {
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
  });
});
const page = await context.newPage();
let expected = () => false;
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type()) && !expected(message.text())) {
    wrong.push(`${page.url()}: console: ${message.text()}`);
  }
});
page.on("pageerror", (error) => wrong.push(`${page.url()}: ${error}`));
page.on("dialog", async (dialog) => { wrong.push(`${page.url()}: dialog ${dialog.message()}`); await dialog.dismiss(); });
page.on("request", (request) => { if (!request.url().startsWith(base)) wrong.push(`asks elsewhere: ${request.url()}`); });

const look = async (name) => {
  const sizes = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  check(sizes[0] <= sizes[1], `${name}: ${page.url()} is ${sizes[0]} wide on a screen of ${sizes[1]}`);
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: name.startsWith("full-") });
};
const go = async (path) => {
  const answer = await page.goto(base + path);
  check(answer.ok(), `${path} is ${answer.status()}`);
};
const says = async (text) => check((await page.content()).includes(text), `${page.url()} does not say ${text}`);

try {
  // The very first account.
  await go(setup);
  await look("set-up");
  await page.getByLabel("Name").fill("root");
  await page.getByLabel("Password", { exact: false }).first().fill(password);
  await page.getByLabel("The password again").fill(password);
  await page.getByRole("button", { name: "Make the account" }).click();
  await page.waitForURL("**/sessions");
  console.log("set up");

  // Out, and in again by keyboard alone. A refused sign-in is an answer of 401, which Chromium notes.
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL("**/sign-in*");
  expected = (text) => text.includes("401");
  await page.keyboard.type("root");
  await page.keyboard.press("Tab");
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").waitFor();
  await look("sign-in-wrong");
  await page.keyboard.type(password);
  await page.keyboard.press("Enter");
  await page.waitForURL("**/sessions");
  expected = () => false;
  console.log("signed in");

  // The list, its search by `/`, and a session out of it.
  await look("sessions");
  await page.keyboard.press("Tab");
  check(await page.evaluate(() => document.activeElement.className) === "skip", "the first stop is not the skip link");
  await page.keyboard.press("Enter");
  check(await page.evaluate(() => document.activeElement.id) === "content", "the skip link does not lead to the content");
  await page.keyboard.press("/");
  check(await page.evaluate(() => document.activeElement.id) === "text", "`/` does not go to the search");
  await page.keyboard.type("salaries");
  await page.keyboard.press("Enter");
  await page.waitForURL("**text=salaries**");
  check(await page.locator("tbody tr").count() === 1, "the search does not find the one session");
  await look("search");
  await page.locator("tbody a").first().focus();
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  check(outline !== "none", "focus cannot be seen");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/sessions/*");
  await go("/sessions?user=nobody&since=7d");
  await says("No session is like that");
  await look("nothing-found");

  // Sessions: an ordinary one, one of hostile values.
  await go(`/sessions/${session}`);
  await says("Grace Hopper");
  await look("full-session");
  await go(`/sessions/${hostile}`);
  check(await page.locator("main script, main img, main b, main iframe").count() === 0, "values became elements");
  await says("\\u{202e}desrever");
  await look("full-hostile");

  // One that goes on: what happens meanwhile appears by itself.
  await go(`/sessions/${live}`);
  await page.getByText("shown as it happens").waitFor();
  console.log("following");
  check((await lines.next()).value === "recorded", "the test said something else");
  await page.locator("#command-2").waitFor();
  await page.locator("#command-1 .outcome").waitFor();
  await page.getByText("This session has ended").waitFor();
  check(await page.locator("#command-2").count() === 1, "an event stands twice");
  await page.locator("#end").waitFor({ state: "detached" });
  await look("full-followed");
  console.log("followed");

  // A terminal: played, searched, at another speed. What hostile output asks for is not done.
  await go(`/sessions/${terminal}`);
  const title = await page.title();
  await page.locator("#terminal .ap-term").first().waitFor();
  const field = page.getByLabel("Search the terminal");
  await field.fill("hello from");
  await field.press("Enter");
  await page.locator("#terminal .found button").first().click();
  const shows = (text) => page.waitForFunction(
    (wanted) => document.querySelector("#terminal .screen").textContent.includes(wanted), text);
  await shows("hello from the terminal");
  await look("full-terminal");
  await page.locator("#terminal select").selectOption("16");
  await shows("the end");
  check(await page.title() === title, "a recorded terminal has changed the title");
  check(await page.locator("#terminal .screen a, #terminal .screen script").count() === 0, "output became elements");
  await field.fill("no such words");
  await field.press("Enter");
  await page.getByText("It does not stand anywhere").waitFor();
  await go(`/sessions/${session}/evidence`);
  await look("evidence");
  console.log("played");

  // The other pages.
  for (const [path, name] of [
    ["/commands", "commands"], ["/commands?verdict=deny", "refused"], ["/hosts", "hosts"], [`/hosts/${host}`, "full-host"],
    ["/rules", "rules"], ["/findings", "findings"], ["/audit", "audit"], ["/holds", "holds"], ["/outputs", "outputs"],
    ["/account", "full-account"], ["/admin/users", "users"], ["/admin/enrolment", "enrolment"], ["/admin/tokens", "tokens"],
    [`/sessions/${session}`, "session-top"],
  ]) {
    await go(path);
    await look(name);
  }
  await go("/admin/enrolment");
  await page.getByLabel("For what").fill("bastions");
  await page.getByRole("button", { name: "Make a token" }).click();
  await says("ilk1.");
  await look("enrolment-made");
  await go("/account");
  await page.getByLabel("Current password").last().fill(password);
  await page.getByRole("button", { name: "Set up one-time codes" }).click();
  await says("otpauth://totp/");
  await look("full-codes");

  // The dark scheme, and a narrow screen.
  await page.emulateMedia({ colorScheme: "dark" });
  for (const [path, name] of [["/sessions", "dark-sessions"], [`/sessions/${session}`, "full-dark-session"], ["/account", "full-dark-account"]]) {
    await go(path);
    await look(name);
  }
  await page.setViewportSize({ width: 360, height: 740 });
  await page.emulateMedia({ colorScheme: "light" });
  for (const [path, name] of [
    ["/sessions", "narrow-sessions"], [`/sessions/${session}`, "full-narrow-session"], [`/sessions/${hostile}`, "narrow-hostile"],
    ["/hosts", "narrow-hosts"], ["/commands", "narrow-commands"], ["/rules", "narrow-rules"], ["/audit", "narrow-audit"],
    ["/account", "narrow-account"], ["/admin/users", "narrow-users"], ["/findings", "narrow-findings"], [`/hosts/${host}`, "narrow-host"],
  ]) {
    await go(path);
    await look(name);
  }
  console.log("looked");
} catch (error) {
  wrong.push(`${page.url()}: ${error}`);
  await page.screenshot({ path: join(screenshots, "failed.png") }).catch(() => {});
}
await browser.close();
input.close();
for (const what of wrong) console.log(`wrong: ${what}`);
process.exit(wrong.length ? 1 : 0);
