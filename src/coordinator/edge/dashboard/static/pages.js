"use strict";
// Times in the reader's zone and language, the state of the live connection, and buttons that copy.
(() => {
  const clock = new Intl.DateTimeFormat(undefined, {
    month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
  });
  const today = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
  });
  const exact = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false,
  });
  const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

  function duration(ms) {
    if (ms < 0) return "0 s";
    const s = Math.floor(ms / 1000), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
    const two = (a, unit, b, small) => (b ? `${a} ${unit} ${b} ${small}` : `${a} ${unit}`);
    if (m < 1) return `${s} s`;
    if (h < 1) return two(m, "min", s % 60, "s");
    if (d < 1) return two(h, "h", m % 60, "min");
    return two(d, "d", h % 24, "h");
  }

  // The server's clock, as far as this page knows it: a reader's clock may be wrong.
  const served = Date.parse(document.documentElement.dataset.now || "") || Date.now();
  const began = performance.now();
  const now = () => served + (performance.now() - began);

  function show(element) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) return;  // formatting it would end this script
    const text = {
      age: () => duration(now() - at),
      ahead: () => (at > now() ? duration(at - now()) : "0 s"),
      clock: () => (at.toDateString() === new Date().toDateString() ? today : clock).format(at),
      exact: () => exact.format(at),
    }[element.dataset.show];
    if (!text) return;
    const written = text();
    if (element.textContent !== written) element.textContent = written;
    if (!element.title) element.title = `${whole.format(at)}\n${element.dateTime}`;
  }
  const showAll = (kinds) => document.querySelectorAll(kinds).forEach(show);
  const every = () => showAll("time[data-show]");
  every();
  setInterval(() => showAll('time[data-show="age"], time[data-show="ahead"]'), 1000);

  // --- the live connection ------------------------------------------------------------------------------
  function live(state, word) {
    const element = document.getElementById("live");
    if (!element || element.dataset.state === state) return;
    element.dataset.state = state;
    document.getElementById("live-word").textContent = word;
  }
  document.addEventListener("htmx:sse:after:connection", () => live("on", "live"));
  document.addEventListener("htmx:sse:close", () => live("off", "not live"));
  document.addEventListener("htmx:sse:error", (event) => {
    live("off", "not live, trying again");
    if (event.detail.status === 401) location.reload();  // the session is over: to the form to log in
  });
  // A stream that could not even begin (too many are open, the server restarts) is tried again.
  setInterval(() => {
    const stream = document.getElementById("stream");
    if (stream && !document.hidden && !stream._htmx?.sse) htmx.trigger(stream, "reconnect");
  }, 10000);
  document.addEventListener("signed-out", () => location.reload());
  document.addEventListener("htmx:after:swap", () => {
    every();
    document.dispatchEvent(new Event("parts:changed"));
  });

  // --- copying ------------------------------------------------------------------------------------------
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Without a secure connection a page may not write to the clipboard: select the text instead.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // --- menus in place: Escape closes one, and the next one closes the last ----------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = document.activeElement?.closest("details.confirm[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });
  document.addEventListener("toggle", (event) => {
    if (!event.target.matches?.("details.confirm[open]")) return;
    document.querySelectorAll("details.confirm[open]").forEach((other) => {
      if (other !== event.target) other.open = false;
    });
    event.target.querySelector("input:not([type=hidden])")?.focus();
  }, true);
})();
