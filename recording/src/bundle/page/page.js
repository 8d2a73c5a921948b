
"use strict";
// Everything that is shown was chosen by whoever was recorded. It gets into the page as text alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const STEP = 300;
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

  // An element with a class and children: elements, or text in which what would hide or turn the text
  // around it is written out.
  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    for (const child of children) {
      if (child === null || child === undefined || child === "") continue;
      if (child instanceof Node) made.append(child);
      else text(made, String(child));
    }
    return made;
  }

  function text(parent, value) {
    let from = 0;
    for (const found of value.matchAll(hidden)) {
      parent.append(value.slice(from, found.index));
      const escape = document.createElement("span");
      escape.className = "escape";
      escape.textContent = "\\u{" + found[0].codePointAt(0).toString(16) + "}";
      parent.append(escape);
      from = found.index + found[0].length;
    }
    parent.append(value.slice(from));
  }

  function facts(list, pairs) {
    for (const [name, value] of pairs) {
      if (value === null || value === undefined || value === "") continue;
      list.append(element("dt", "", name), element("dd", "", value));
    }
    return list;
  }

  const known = (value) => Array.isArray(value) ? value : [];
  const word = (value) => ["allow", "deny", "hold"].includes(value) ? value : "dim";

  function table(rows) {
    const columns = known(rows.columns).map((column) => element("th", "", column.name));
    const body = known(rows.rows).map((row) => element("tr", "",
      ...known(row).map((value) => value === null ? element("td", "null", "NULL") : element("td", "", value))));
    const head = columns.length ? [element("thead", "", element("tr", "", ...columns))] : [];
    const shown = element("div", "rows", element("table", "", ...head, element("tbody", "", ...body)));
    const masks = Object.entries(rows.masks || {}).map(([name, count]) => name + " " + count).join(", ");
    const note = rows.count + " rows" + (body.length < rows.count ? ", " + body.length + " kept" : "") +
      (masks ? "; values masked: " + masks : "");
    return element("div", "", element("p", "dim", note), body.length ? shown : null);
  }

  function subject(of) {
    if (!of) return null;
    const parents = known(of.ancestors).map((parent) => parent.exe).join(" ← ");
    const ci = of.ci ? [of.ci.system, of.ci.project, of.ci.job, of.ci.url].filter(Boolean).join(" ") : "";
    return facts(element("dl"), [
      ["user", of.user + " (" + of.uid + ")"], ["logged in as", of.login_user], ["executable", of.exe],
      ["script", of.script], ["arguments", known(of.argv).join(" ")], ["process", of.pid], ["parents", parents],
      ["unit", of.unit], ["container", of.container], ["CI job", ci], ["SHA-256", of.exe_sha256],
    ]);
  }

  function body(event) {
    const parts = [];
    switch (event.event) {
      case "flow_started":
        parts.push(facts(element("dl"), [["to", event.destination], ["hosts", known(event.hosts).join(", ")],
          ["from", event.client], ["protocol", event.protocol], ["policies", event.policy_hash]]), subject(event.subject));
        break;
      case "login":
        parts.push(facts(element("dl"), [["database user", event.db_user], ["database", event.database],
          ["method", event.auth_method], ["server", event.server_version], ["credential", event.credential]]));
        break;
      case "command": {
        const verdict = element("span", "verdict " + word(event.verdict), event.verdict);
        parts.push(element("span", "dim", event.step + " "), verdict,
          event.rule ? element("span", "", " by " + event.rule) : null,
          event.message ? element("span", "dim", ": " + event.message) : null);
        for (const rule of known(event.observed)) parts.push(element("span", "dim", " (" + rule.rule + " would " + rule.verdict + ")"));
        parts.push(element("pre", "", event.text));
        if (known(event.params).length) {
          parts.push(element("p", "dim", event.params.map((value, at) => "$" + (at + 1) + " = " + (value === null ? "NULL" : value)).join(", ")));
        }
        break;
      }
      case "result":
        parts.push(element("span", event.status === "error" ? "deny" : "", [event.status, event.tag, event.sqlstate].filter(Boolean).join(" ")),
          element("span", "dim", " after " + (event.duration_ns / 1e6).toFixed(1) + " ms "),
          event.message ? element("pre", "", event.message) : null, event.rows ? table(event.rows) : null);
        break;
      case "copy_data":
        parts.push(element("span", "", (event.to_client ? "to the client" : "from the client") + ", " + event.bytes + " bytes"),
          event.lines ? table(event.lines) : null);
        break;
      default: {
        const rest = Object.entries(event).filter(([key]) => !["index", "time", "monotonic_ns", "session", "sequence", "event"].includes(key));
        parts.push(facts(element("dl"), rest.map(([key, value]) => [key, typeof value === "object" ? JSON.stringify(value) : value])));
      }
    }
    return parts;
  }

  function line(event, start) {
    const after = (event.monotonic_ns - start) / 1e9;
    const time = element("time", "", "+" + after.toFixed(3) + " s");
    time.title = String(event.time);
    const kind = element("span", "kind", String(event.event).replaceAll("_", " "));
    return element("li", "event", time, element("div", "", kind, ...body(event)));
  }

  function show(session) {
    const main = document.getElementById("session");
    main.replaceChildren(element("h2", "", "Session " + session.session));
    main.append(facts(element("dl"), [["host", session.host_name], ["host key", session.host], ["began", session.started],
      ["last event", session.last], ["ended", session.cut_off ? "cut off: the agent ended before it" : session.ended],
      ["taken by the collector", session.taken], ["events", session.count]]));
    if (session.events.length < session.count) {
      main.append(element("p", "warn", "Only the first " + session.events.length + " of " + session.count + " events are on this page. All are in the bundle."));
    }
    const search = element("input");
    search.type = "search";
    search.placeholder = "Find in this session";
    search.setAttribute("aria-label", "Find in this session");
    const list = element("ol");
    const more = element("button", "", "Show more");
    main.append(search, list, more);
    const start = session.events.length ? session.events[0].monotonic_ns : 0;
    let found = session.events;
    let shown = 0;
    const next = () => {
      list.append(...found.slice(shown, shown + STEP).map((event) => line(event, start)));
      shown = Math.min(shown + STEP, found.length);
      more.hidden = shown >= found.length;
    };
    search.addEventListener("input", () => {
      const wanted = search.value.toLowerCase();
      found = session.events.filter((event) => JSON.stringify(event).toLowerCase().includes(wanted));
      list.replaceChildren();
      shown = 0;
      next();
    });
    more.addEventListener("click", next);
    next();
  }

  facts(document.getElementById("bundle"), [["collector", data.bundle.collector], ["made", data.bundle.created],
    ["asked for by", data.bundle.requested_by], ["reason", data.bundle.reason],
    ["ledger", data.bundle.entries + " entries, root " + data.bundle.root]]);
  const list = document.getElementById("sessions");
  const buttons = data.sessions.map((session) => {
    const button = element("button", "", session.started.slice(0, 19) + " ", element("span", "dim", session.host_name + " · " + session.session.slice(0, 12)));
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-current", String(other === button)));
      show(session);
    });
    list.append(element("li", "", button));
    return button;
  });
  if (buttons.length) buttons[0].click();
})();
