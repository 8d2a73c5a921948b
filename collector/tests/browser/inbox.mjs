// Drives the inbox in Chromium: requests come and go without the page being loaded again, and are decided on by
// keyboard. Every message on the console, every dialog and every breach of the content security policy is a
// failure. Says what it waits for on standard output, a line each; the test answers when it has done it.
//
// node inbox.mjs CHROMIUM BASE SETUP_PATH SCREENSHOTS
import { createRequire } from "node:module";
import { createInterface } from "node:readline/promises";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

// Found through NODE_PATH, which `import` does not look at.
const { chromium } = createRequire(import.meta.url)("playwright-core");
const [executablePath, base, setup, screenshots] = process.argv.slice(2);
mkdirSync(screenshots, { recursive: true });
const password = "correct horse battery staple";
const wrong = [];
const check = (holds, what) => { if (!holds) wrong.push(what); };
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = async (what) => {
  console.log(what);
  check((await lines.next()).value === "done", `the test has not done: ${what}`);
};

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, colorScheme: "light" });
context.setDefaultTimeout(30000);
await context.addInitScript(() => {
  document.addEventListener("securitypolicyviolation", (event) => {
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
  });
});
const page = await context.newPage();
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) wrong.push(`${page.url()}: console: ${message.text()}`);
});
page.on("pageerror", (error) => wrong.push(`${page.url()}: ${error}`));
page.on("dialog", async (dialog) => { wrong.push(`${page.url()}: dialog ${dialog.message()}`); await dialog.dismiss(); });
page.on("request", (request) => { if (!request.url().startsWith(base)) wrong.push(`asks elsewhere: ${request.url()}`); });

const look = async (name) => {
  const sizes = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  check(sizes[0] <= sizes[1], `${name}: ${page.url()} is ${sizes[0]} wide on a screen of ${sizes[1]}`);
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
};
const mark = () => page.evaluate(() => { window.marked = true; });
const marked = async (what) => check(await page.evaluate(() => window.marked === true), `${what}: the page was loaded again`);

try {
  await page.goto(base + setup);
  await page.getByLabel("Name").fill("root");
  await page.getByLabel("Password", { exact: false }).first().fill(password);
  await page.getByLabel("The password again").fill(password);
  await page.getByRole("button", { name: "Make the account" }).click();
  await page.waitForURL("**/sessions");
  await ask("in the group");

  // Requests appear by themselves, and the head says how many.
  await page.goto(`${base}/approvals`);
  await page.getByText("Nothing waits for you").waitFor();
  check(await page.locator("#waiting").isHidden(), "nothing waits, and a number is shown");
  await mark();
  await ask("first request");
  await page.locator(".request").waitFor();
  await page.locator("#waiting", { hasText: "1" }).waitFor();
  check((await page.title()).startsWith("(1) "), "the title does not say that one waits");
  await ask("two more requests");
  await page.waitForFunction(() => document.querySelectorAll(".request").length === 3);
  await marked("appearing");
  check(await page.locator("main script, main img, main b, main iframe").count() === 0, "values became elements");
  check((await page.content()).includes("\\u{202e}"), "what turns text is not shown as such");
  await look("inbox");

  // By keyboard: to the oldest and back to the newest; whoever is at one stays there when others come.
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  const at = () => page.evaluate(() => document.activeElement.closest(".request")?.id);
  const oldest = await at();
  check(oldest !== undefined, "j does not go to a request");
  await ask("one goes");
  await page.waitForFunction(() => document.querySelectorAll(".request").length === 2);
  check(await at() === oldest, "the focus was lost when the list changed");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/approvals/*-*");

  // What will happen, and approving it by keyboard alone.
  for (const text of ["What will happen", "no WHERE: every row", "public.customers", "secret-parameter", "nightly.py"]) {
    check((await page.content()).includes(text), `the page does not say ${text}`);
  }
  await look("request");
  await page.keyboard.press("a");
  await page.keyboard.type("ticket 17");
  await page.keyboard.press("Enter");
  await page.getByText("It is approved, and the host lets the command go on").waitFor();
  check(await page.locator("#decide").count() === 0, "what is decided can be decided");
  await look("approved");

  // One of hostile values, in the dark and on a narrow screen; it is decided elsewhere meanwhile.
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(`${base}/approvals`);
  await look("dark-inbox");
  await page.setViewportSize({ width: 390, height: 844 });
  await look("narrow-dark-inbox");
  await page.locator(".request .open").first().click();
  await page.waitForURL("**/approvals/*-*");
  check(await page.locator("main script, main img, main b, main iframe").count() === 0, "values became elements");
  await look("narrow-dark-request");
  await page.setViewportSize({ width: 1360, height: 900 });
  await look("dark-request");
  await mark();
  await page.keyboard.press("d");
  await page.keyboard.type("not thi");
  await ask("the last is decided elsewhere");
  await page.locator("#decide").waitFor({ state: "detached" });
  await marked("being decided");
  check((await page.locator("#standing").textContent()).includes("Denied by"), "it does not say how it ended");
  await look("dark-ended");

  // What was decided can be found.
  await page.goto(`${base}/approvals?state=decided`);
  check(await page.locator(".request").count() === 3, "what was decided is not listed");
  await page.emulateMedia({ colorScheme: "light" });
  await look("decided");
  console.log("looked");
} catch (error) {
  wrong.push(`${page.url()}: ${error}`);
  await page.screenshot({ path: join(screenshots, "stopped.png") }).catch(() => {});
}
for (const what of wrong) console.log(`wrong: ${String(what).replaceAll("\n", " ")}`);
if (wrong.length === 0) console.log("well");
await browser.close();
process.exit(0);
