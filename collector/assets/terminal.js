// A terminal that was recorded: the player, how fast it plays, and a search through what stood on it.
"use strict";

const terminal = document.getElementById("terminal");
if (terminal && "AsciinemaPlayer" in window) play(terminal);

async function play(place) {
  const says = place.querySelector("[role=status]");
  const answer = await fetch(place.dataset.cast, { redirect: "error" });
  if (!answer.ok) {
    says.textContent = "The recording cannot be read.";
    return;
  }
  const cast = await answer.text();
  says.textContent = "";
  const screen = place.querySelector(".screen");
  const speed = place.querySelector("select");
  let player = null;
  const make = (startAt, autoPlay) => {
    player?.dispose();
    player = AsciinemaPlayer.create({ data: cast }, screen, {
      speed: Number(speed.value),
      startAt,
      autoPlay,
      fit: "width",
      idleTimeLimit: 3,
      preload: true,
      // What stood there then is shown before it plays on.
      poster: `npt:${startAt > 0 ? startAt + 0.001 : 1}`,
      terminalFontFamily: "ui-monospace, monospace",
    });
  };
  make(0, false);
  speed.addEventListener("change", () => make(player.getCurrentTime() ?? 0, true));
  search(place, cast, (time) => {
    make(time, false);
    screen.scrollIntoView({ block: "nearest" });
  });
}

// What stood on the terminal as plain text, with the time at which each piece was written.
function plain(cast) {
  let text = "";
  const times = [];
  let idle = 0;
  let last = 0;
  for (const line of cast.split("\n").slice(1)) {
    if (!line) continue;
    const [time, code, data] = JSON.parse(line);
    // The player waits three seconds at most, and counts by that.
    idle += Math.max(0, time - last - 3);
    last = time;
    if (code !== "o") continue;
    times.push([text.length, time - idle]);
    // eslint-disable-next-line no-control-regex
    text += data.replace(/\u001b\[[ -?]*[@-~]|\u001b[()].|\u001b.|[\u0000-\u0008\u000b-\u001f\u007f]/gu, "");
  }
  return { text, times };
}

function search(place, cast, show) {
  const form = place.querySelector("form");
  const found = place.querySelector(".found");
  let known = null;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    known ??= plain(cast);
    found.replaceChildren();
    const wanted = form.elements.words.value.toLowerCase();
    if (!wanted) return;
    const within = known.text.toLowerCase();
    let at = within.indexOf(wanted);
    let count = 0;
    for (; at >= 0 && count < 100; at = within.indexOf(wanted, at + wanted.length)) {
      const time = timeOf(known.times, at);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      const around = known.text.slice(Math.max(0, at - 30), at + wanted.length + 40).replace(/\s+/gu, " ");
      button.textContent = `${Math.floor(time / 60)}:${String(Math.floor(time % 60)).padStart(2, "0")}  ${around}`;
      button.addEventListener("click", () => show(time));
      const item = document.createElement("li");
      item.append(button);
      found.append(item);
      count += 1;
    }
    if (count === 0) {
      const item = document.createElement("li");
      item.textContent = "It does not stand anywhere.";
      found.append(item);
    }
  });
}

// The time of the last piece that begins at or before a place.
function timeOf(times, at) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle][0] <= at) low = middle + 1;
    else high = middle;
  }
  return low > 0 ? times[low - 1][1] : 0;
}
