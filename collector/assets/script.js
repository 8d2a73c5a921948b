// What pages do beyond showing themselves. Without it everything still works.
"use strict";

// `/` goes to the search, as one expects of lists.
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof Element && event.target.closest("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector("[data-search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});

// Times are shown in UTC; the local one stands in the tooltip.
function localTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (!Number.isNaN(date.valueOf())) time.title = date.toLocaleString();
  }
}
localTimes(document);

// The names of columns, for narrow screens, where the head of a table is not shown.
for (const table of document.querySelectorAll("table.list")) {
  const names = Array.from(table.querySelectorAll("thead th"), (head) => head.textContent);
  for (const row of table.tBodies[0]?.rows ?? []) {
    Array.from(row.cells).forEach((cell, at) => {
      if (names[at] && at > 0 && cell.textContent.trim()) cell.dataset.name = names[at];
    });
  }
}

// A secret is copied by a click.
for (const secret of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(secret.textContent);
    button.textContent = "Copied";
  });
  secret.after(" ", button);
}

// A session that goes on: what is new is fetched and added.
const timeline = document.querySelector("[data-follow]");
const first = timeline?.querySelector(".events");
if (timeline && first && !("more" in first.dataset) && "EventSource" in window) follow(timeline, first);

function follow(timeline, events) {
  const says = document.getElementById("following");
  if (says) says.textContent = "This session goes on. What happens in it is shown as it happens.";
  let last = Number(events.dataset.last);
  let busy = Promise.resolve();
  const fetchNew = async () => {
    for (;;) {
      const answer = await fetch(`${timeline.dataset.events}?after=${last}`, { redirect: "error" });
      if (!answer.ok) return;
      // Parsed apart from the page: nothing in it runs, and only elements are taken over.
      const part = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".events");
      if (!part || Number(part.dataset.last) <= last) return;
      last = Number(part.dataset.last);
      timeline.querySelector(".empty")?.remove();
      for (const event of Array.from(part.children)) add(events, event);
      if (!("more" in part.dataset)) return;
    }
  };
  const source = new EventSource(timeline.dataset.follow);
  source.addEventListener("changed", () => {
    busy = busy.then(fetchNew).catch(() => {});
  });
  source.addEventListener("ended", () => {
    source.close();
    busy.then(() => {
      // What can no longer be done goes; when it ended stands with the event.
      for (const gone of document.querySelectorAll("#state, #end")) gone.remove();
      const ended = document.getElementById("ended");
      if (ended) ended.textContent = "just now";
    });
    if (says) says.textContent = "This session has ended.";
  });
}

function add(events, event) {
  const command = event.dataset.of && document.getElementById(event.dataset.of);
  if (command) {
    command.querySelector(".outcomes").append(...event.querySelectorAll(".outcome"));
    return;
  }
  event.classList.add("fresh");
  localTimes(event);
  events.append(event);
}

// How long is left, counted down; at its end the page looks again.
function countDown() {
  for (const left of document.querySelectorAll("[data-until]")) {
    const seconds = Math.floor((new Date(left.dataset.until) - Date.now()) / 1000);
    if (Number.isNaN(seconds)) continue;
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
    const text =
      seconds <= 0 ? "its time is over"
      : seconds < 60 ? `${seconds} s left`
      : hours > 0 ? `${hours} h ${minutes} min left`
      : `${minutes} min ${seconds % 60} s left`;
    if (left.textContent !== text) left.textContent = text;
    left.classList.toggle("soon", seconds < 60);
  }
}
if (document.querySelector("[data-until], #inbox")) {
  countDown();
  setInterval(countDown, 1000);
}

// A part of a page that others change: it is fetched anew, and put in the place of what was there.
function keepFresh(place, address, changed) {
  let busy = Promise.resolve();
  const fetchNew = async () => {
    const answer = await fetch(address, { redirect: "error" });
    if (!answer.ok) return;
    const part = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".part");
    const old = place.querySelector(".part");
    if (!part || !old || part.isEqualNode(old)) return;
    changed(old, part);
    localTimes(place);
    countDown();
  };
  const look = () => {
    busy = busy.then(fetchNew).catch(() => {});
  };
  const source = new EventSource(place.dataset.follow);
  source.addEventListener("changed", look);
  // What was missed while the connection was away.
  source.addEventListener("open", look);
}

const inbox = document.getElementById("inbox");
if (inbox && "EventSource" in window) {
  keepFresh(inbox, inbox.dataset.list, (old, part) => {
    // Who is at a request with the keyboard stays there.
    const at = document.activeElement?.closest?.(".request")?.id;
    const known = new Set(Array.from(old.querySelectorAll(".request"), (request) => request.id));
    const fresh = Array.from(part.querySelectorAll(".request")).filter((request) => !known.has(request.id));
    old.replaceWith(part);
    if (at) document.getElementById(at)?.querySelector(".open")?.focus();
    const news = document.getElementById("news");
    if (news && fresh.length > 0) news.textContent = `${fresh.length} new`;
    const waiting = document.getElementById("waiting");
    if (waiting) {
      waiting.textContent = part.dataset.open;
      waiting.hidden = part.dataset.open === "0";
    }
    const count = part.dataset.open === "0" ? "" : `(${part.dataset.open}) `;
    document.title = count + document.title.replace(/^\(\d+\) /, "");
  });
}

const standing = document.getElementById("standing");
if (standing && "EventSource" in window) {
  keepFresh(standing, standing.dataset.standing, (old, part) => {
    old.replaceWith(part);
    // What can no longer be done goes.
    if (part.dataset.state !== "pending") document.getElementById("decide")?.remove();
  });
}

// Keys: j and k go through the inbox; a and d to the reasons for approving and refusing.
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof Element && event.target.closest("input, select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const reason = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (reason) {
    event.preventDefault();
    reason.focus();
    return;
  }
  const step = { j: 1, k: -1 }[event.key];
  const links = Array.from(document.querySelectorAll("#inbox .open"));
  if (!step || links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + step, 0), links.length - 1)].focus();
});
