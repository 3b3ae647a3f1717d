"use strict";
(() => {
  // Refreshes the page's parts, draws what has been, and filters. Without it the page is complete, too.
  const KEPT = 90, LEAST = 2000, SVG = document.querySelector("#mould").namespaceURI;
  const rates = new Map(), totals = new Map(), folded = new Map();
  const filter = document.getElementById("filter"), banner = document.getElementById("banner");
  let asking = false, next = 0, unfolded = false;

  const all = (what, of = document) => of.querySelectorAll(what);

  function sift() {
    const wanted = filter.value.trim().toLowerCase();
    for (const service of all("details.s")) {
      service.hidden = wanted !== "" && !service.textContent.toLowerCase().includes(wanted);
    }
  }

  // One path, the newest at the right; its height is the highest there has been.
  function line(values) {
    const most = Math.max(1, ...values), step = 120 / (KEPT - 1), from = KEPT - values.length;
    const points = values.map((v, n) => `${((from + n) * step).toFixed(1)} ${(19 - 18 * v / most).toFixed(1)}`);
    return "M" + points.join("L");
  }

  function draw() {
    const names = new Set();
    for (const service of all("details.s")) {
      const name = service.dataset.k, values = rates.get(name) || [];
      names.add(name);
      values.push(Number(service.dataset.r));
      if (values.length > KEPT) values.shift();
      rates.set(name, values);
      const svg = document.createElementNS(SVG, "svg");
      const path = document.createElementNS(svg.namespaceURI, "path");
      svg.setAttribute("viewBox", "0 0 120 20");
      svg.setAttribute("aria-hidden", "true");
      path.setAttribute("d", line(values));
      svg.append(path);
      service.querySelector(".spark").replaceChildren(svg);
      if (folded.has(name)) service.open = folded.get(name);
    }
    for (const name of rates.keys()) if (!names.has(name)) rates.delete(name);
    const now = Date.now();
    for (const row of all("[data-drop]")) {
      const before = totals.get(row.dataset.drop), count = Number(row.dataset.total);
      if (before) {
        const rate = Math.max(0, count - before.count) * 1000 / (now - before.at);
        row.querySelector(".rate").textContent = rate < 10 ? rate.toFixed(1) : Math.round(rate);
      }
      totals.set(row.dataset.drop, { count, at: now });
    }
    const fold = document.querySelector(".fold");
    if (fold) {
      fold.hidden = false;
      fold.textContent = unfolded ? "Fold all" : "Unfold all";
    }
    sift();
  }

  function replace(text) {
    const parts = new DOMParser().parseFromString(text, "text/html");
    const main = document.querySelector("main"), there = new Map();
    for (const part of all("section", main)) there.set(part.id, part);
    for (const part of all("section", parts)) {
      const old = there.get(part.id);
      there.delete(part.id);
      if (old) old.replaceWith(part); else main.insertBefore(part, document.getElementById("services"));
    }
    for (const gone of there.values()) gone.remove();
    draw();
  }

  async function refresh() {
    if (asking || document.hidden || Date.now() < next) return;
    asking = true;
    const start = Date.now();
    try {
      const query = new URLSearchParams(location.search);
      query.set("part", "body");
      const answer = await fetch("/?" + query, { cache: "no-store" });
      const text = await answer.text();
      if (answer.ok) replace(text);
      banner.textContent = answer.ok ? "" : new DOMParser().parseFromString(text, "text/html").body.textContent.trim();
    } catch {
      banner.textContent = "No connection: what stands here is old.";
    }
    asking = false;
    // A large page takes long to draw: it is left alone ten times as long.
    next = Date.now() + Math.max(LEAST - 200, 10 * (Date.now() - start));
  }

  document.addEventListener("click", (event) => {
    const summary = event.target.closest("summary");
    if (summary) folded.set(summary.parentElement.dataset.k, !summary.parentElement.open);
    if (!event.target.closest(".fold")) return;
    unfolded = !unfolded;
    for (const service of all("details.s")) {
      service.open = unfolded;
      folded.set(service.dataset.k, unfolded);
    }
    event.target.textContent = unfolded ? "Fold all" : "Unfold all";
  });
  filter.addEventListener("input", sift);
  document.addEventListener("visibilitychange", refresh);
  draw();
  // Not before the page is loaded: a stream that never ends would keep it loading.
  window.addEventListener("load", () => setTimeout(() => {
    const events = new EventSource("/events");
    events.addEventListener("look", refresh);
    events.addEventListener("down", (event) => { banner.textContent = JSON.parse(event.data).error; });
    events.onerror = () => { banner.textContent = "No connection: what stands here is old."; };
  }, 500));
})();
