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
    document.getElementById("state")?.remove();
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
