"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const numbers = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const view = new DataView(bytes.buffer), found = new Int16Array(raw.length / 2);
    for (let i = 0; i < found.length; i++) found[i] = view.getInt16(2 * i, true);
    return found;
  };
  const xy = numbers(data.xy), of = numbers(data.of), texts = data.texts, clusters = data.clusters;
  const n = texts.length, noise = clusters.length; // colours and groups: one for each cluster, the last for noise
  const group = (i) => (of[i] < 0 ? noise : of[i]);
  const get = (id) => document.getElementById(id);
  const canvas = get("points"), over = get("over"), tip = get("tip"), list = get("legend"), search = get("search");
  const area = get("map"), calm = matchMedia("(prefers-reduced-motion: reduce)");

  // points by group, so that each colour is set once; the large ones below
  const starts = new Uint32Array(noise + 2), rows = new Uint32Array(n);
  for (let i = 0; i < n; i++) starts[group(i) + 1]++;
  for (let g = 0; g <= noise; g++) starts[g + 1] += starts[g];
  { const next = starts.slice(); for (let i = 0; i < n; i++) rows[next[group(i)]++] = i; }

  // ---------------------------------------------------------------- colours
  let colours = [], ink, card, muted;
  const readColours = () => {
    const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    ink = of("--ink"); card = of("--card"); muted = of("--muted");
    colours = clusters.map((_, i) => {
      if (i < 8) return of(`--k${i}`);
      const turn = ((i - 8) * 137.508 + 40) % 360, level = (i % 3) * 9; // the golden angle keeps neighbours apart
      return `hsl(${turn.toFixed(1)} ${dark ? 62 : 58}% ${dark ? 60 + level : 34 + level}%)`;
    });
    colours.push(of("--untrained"));
    for (const dot of document.querySelectorAll("i.dot")) dot.style.background = colours[dot.dataset.group];
  };

  // ---------------------------------------------------------------- view
  let width = 1, height = 1, ratio = 1, scale = 1, left = 0, top = 0; // screen = xy · scale + (left, top)
  let untouched = true; // until someone moves, the whole map is in view, whatever the size of the window
  let lowX = 0, highX = 0, lowY = 0, highY = 0;
  for (let i = 0; i < n; i++) {
    const x = xy[2 * i], y = xy[2 * i + 1];
    if (!i || x < lowX) lowX = x;
    if (!i || x > highX) highX = x;
    if (!i || y < lowY) lowY = y;
    if (!i || y > highY) highY = y;
  }
  const whole = () => {
    const room = Math.min(width, height) * 0.06 + 14;
    return Math.min((width - 2 * room) / Math.max(highX - lowX, 1), (height - 2 * room) / Math.max(highY - lowY, 1), 1);
  };
  const showAll = () => {
    untouched = true;
    scale = whole();
    left = width / 2 - (scale * (lowX + highX)) / 2;
    top = height / 2 - (scale * (lowY + highY)) / 2;
  };
  const zoomAt = (x, y, factor) => {
    const next = Math.min(Math.max(scale * factor, whole() * 0.7), whole() * 400);
    untouched = false;
    left = x - ((x - left) * next) / scale;
    top = y - ((y - top) * next) / scale;
    scale = next;
    draw();
  };
  const move = (x, y) => {
    untouched = false;
    left += x;
    top += y;
  };
  const goTo = (i) => {
    untouched = false;
    scale = Math.max(scale, whole() * (n > 5000 ? 6 : 2));
    left = width / 2 - scale * xy[2 * i];
    top = height / 2 - scale * xy[2 * i + 1];
  };
  const radius = () => {
    const zoomed = Math.sqrt(scale / whole());
    const base = Math.min(5.5, Math.max(0.85, Math.sqrt((width * height) / n) * 0.11));
    return Math.min(7, base * Math.max(zoomed, 0.8));
  };

  // ---------------------------------------------------------------- points under the pointer
  const CELLS = 256, span = Math.max(highX - lowX, highY - lowY, 1) + 1;
  const cellOf = (x, y) => {
    const at = (v, low) => Math.min(CELLS - 1, Math.max(0, Math.floor(((v - low) / span) * CELLS)));
    return at(y, lowY) * CELLS + at(x, lowX);
  };
  const cells = new Uint32Array(CELLS * CELLS + 1), inCells = new Uint32Array(n);
  for (let i = 0; i < n; i++) cells[cellOf(xy[2 * i], xy[2 * i + 1]) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) cells[c + 1] += cells[c];
  { const next = cells.slice(); for (let i = 0; i < n; i++) inCells[next[cellOf(xy[2 * i], xy[2 * i + 1])]++] = i; }
  const nearest = (px, py, reach) => {
    const x = (px - left) / scale, y = (py - top) / scale, far = reach / scale;
    const a = cellOf(x - far, y - far), b = cellOf(x + far, y + far);
    let best = -1, least = far * far;
    for (let row = Math.floor(a / CELLS); row <= Math.floor(b / CELLS); row++)
      for (let at = cells[row * CELLS + (a % CELLS)]; at < cells[row * CELLS + (b % CELLS) + 1]; at++) {
        const i = inCells[at];
        if (!lit(i)) continue;
        const dx = xy[2 * i] - x, dy = xy[2 * i + 1] - y, d = dx * dx + dy * dy;
        if (d <= least) { least = d; best = i; }
      }
    return best;
  };

  // ---------------------------------------------------------------- drawing
  const chosen = new Set(); // groups that are lit; all where it is empty
  let matches = null; // texts that are lit by the search, 0 or 1 each
  let hover = -1, waiting = false;
  const lit = (i) => (!chosen.size || chosen.has(group(i))) && (!matches || matches[i] === 1);

  const draw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); paintOver(); });
  };
  const paint = () => {
    const c = canvas.getContext("2d"), r = radius(), some = chosen.size > 0 || matches !== null;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const solid = r >= 3.2 ? 0.95 : n > 20000 && scale < whole() * 4 ? 0.5 : 0.72;
    const layer = (wantLit) => {
      for (let k = 0; k <= noise; k++) {
        const g = k ? k - 1 : noise; // noise first
        const faint = g === noise && !some ? 0.5 : 1;
        c.fillStyle = wantLit || !some ? colours[g] : colours[noise];
        c.globalAlpha = wantLit ? (some ? Math.max(solid, 0.8) : solid * faint) : 0.13;
        disc(c, g, some ? wantLit : null, some && wantLit ? Math.max(r, 1.6) : r);
      }
    };
    if (some) layer(false);
    layer(true);
    c.globalAlpha = 1;
  };
  const disc = (c, g, want, r) => {
    const small = r < 1.7, side = 2 * r;
    let open = 0;
    if (!small) c.beginPath();
    for (let at = starts[g]; at < starts[g + 1]; at++) {
      const i = rows[at], x = xy[2 * i] * scale + left, y = xy[2 * i + 1] * scale + top;
      if (x < -r || y < -r || x > width + r || y > height + r) continue;
      if (want !== null && lit(i) !== want) continue;
      if (small) { c.fillRect(x - r, y - r, side, side); continue; }
      c.moveTo(x + r, y);
      c.arc(x, y, r, 0, 7);
      if (++open === 400) { finish(c, r); c.beginPath(); open = 0; } // long paths fill slowly
    }
    if (!small && open) finish(c, r);
  };
  const finish = (c, r) => {
    c.fill();
    if (r >= 3.2) { c.strokeStyle = card; c.lineWidth = 0.9; c.stroke(); }
  };
  const paintOver = () => {
    const c = over.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    names(c);
    if (hover < 0) return;
    const x = xy[2 * hover] * scale + left, y = xy[2 * hover + 1] * scale + top;
    c.beginPath();
    c.arc(x, y, Math.max(radius(), 2.5) + 2.5, 0, 7);
    c.fillStyle = colours[group(hover)];
    c.fill();
    c.lineWidth = 2;
    c.strokeStyle = ink;
    c.stroke();
  };
  const names = (c) => {
    c.font = `600 ${width < 600 ? 11.5 : 13}px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif`;
    c.textAlign = "center";
    c.textBaseline = "middle";
    c.lineJoin = "round";
    const taken = [];
    clusters.forEach((cluster, g) => {
      if (chosen.size && !chosen.has(g)) return;
      const words = cluster.terms.slice(0, 2).join(", ");
      if (!words) return;
      const half = c.measureText(words).width / 2 + 5;
      let x = xy[2 * cluster.at] * scale + left, y = xy[2 * cluster.at + 1] * scale + top;
      if (radius() >= 3.2) y -= radius() + 9; // above a point that can be seen, not on it
      if (x < 0 || y < 0 || x > width || y > height) return;
      x = Math.min(Math.max(x, half), width - half);
      y = Math.min(Math.max(y, 11), height - 11);
      const fits = (at) => taken.every((t) => Math.abs(t.x - x) > t.half + half || Math.abs(t.y - at) > 19);
      const place = [y, y - 17, y + 17].find(fits);
      if (place === undefined) return;
      taken.push({ x, y: place, half });
      c.strokeStyle = card;
      c.lineWidth = 4.5;
      c.globalAlpha = 0.88;
      c.strokeText(words, x, place);
      c.globalAlpha = 1;
      c.fillStyle = ink;
      c.fillText(words, x, place);
    });
  };

  // ---------------------------------------------------------------- the text under the pointer
  const name = (g) => (g === noise ? "in no cluster" : clusters[g].label);
  const show = (i) => {
    hover = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.querySelector("i").style.background = colours[group(i)];
      tip.querySelector(".of span").textContent = name(group(i));
      tip.querySelector(".text").textContent = texts[i];
      const x = xy[2 * i] * scale + left, y = xy[2 * i + 1] * scale + top, w = tip.offsetWidth, h = tip.offsetHeight;
      const beside = x + 16 + w < width ? x + 16 : x - 16 - w, below = y + 14 + h < height ? y + 14 : y - 14 - h;
      tip.style.transform = `translate(${Math.max(4, Math.min(beside, width - w - 4))}px, ${Math.max(4, below)}px)`;
    }
    paintOver();
  };

  const down = new Map(); // pointers that are pressed
  const spot = (e) => { const box = canvas.getBoundingClientRect(); return { x: e.clientX - box.left, y: e.clientY - box.top }; };
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    down.set(e.pointerId, spot(e));
    show(e.pointerType === "mouse" ? -1 : nearest(spot(e).x, spot(e).y, 22));
  });
  canvas.addEventListener("pointermove", (e) => {
    const now = spot(e), before = down.get(e.pointerId);
    if (!before) { const i = nearest(now.x, now.y, Math.max(10, radius() + 4)); if (i !== hover) show(i); return; }
    if (down.size === 1) {
      if (Math.hypot(now.x - before.x, now.y - before.y) < 1) return;
      move(now.x - before.x, now.y - before.y);
    } else {
      const other = [...down].find(([id]) => id !== e.pointerId)[1];
      const was = Math.hypot(before.x - other.x, before.y - other.y), is = Math.hypot(now.x - other.x, now.y - other.y);
      if (was > 0) zoomAt((now.x + other.x) / 2, (now.y + other.y) / 2, is / was);
    }
    down.set(e.pointerId, now);
    if (hover >= 0) show(-1);
    draw();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (e) => down.delete(e.pointerId));
  canvas.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse" && !down.size) show(-1); });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    const { x, y } = spot(e);
    show(-1);
    zoomAt(x, y, Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0016)));
  }, { passive: false });
  canvas.addEventListener("dblclick", (e) => { const { x, y } = spot(e); zoomAt(x, y, 2); });
  const keys = {
    ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0),
    ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
    "+": () => zoomAt(width / 2, height / 2, 1.4), "=": () => zoomAt(width / 2, height / 2, 1.4),
    "-": () => zoomAt(width / 2, height / 2, 1 / 1.4), 0: showAll,
  };
  canvas.addEventListener("keydown", (e) => {
    if (!Object.hasOwn(keys, e.key) || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    keys[e.key]();
    show(-1);
    draw();
  });
  get("in").addEventListener("click", () => zoomAt(width / 2, height / 2, 1.6));
  get("out").addEventListener("click", () => zoomAt(width / 2, height / 2, 1 / 1.6));
  get("all").addEventListener("click", () => { showAll(); show(-1); draw(); });

  // ---------------------------------------------------------------- clusters
  const made = (tag, set = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), set);
    element.append(...inside);
    return element;
  };
  const dot = (g) => { const found = made("i", { className: "dot" }); found.dataset.group = g; return found; };
  const entry = (g, size, central) => {
    const button = made("button", { type: "button" }, dot(g), made("span", { className: "name", textContent: name(g) }),
      made("span", { className: "size", textContent: size.toLocaleString("en") }));
    button.setAttribute("aria-pressed", "false");
    const examples = made("ul", { hidden: true }, ...central.map((text) => made("li", { textContent: text })));
    button.addEventListener("click", () => {
      if (!chosen.delete(g)) chosen.add(g);
      const on = chosen.has(g);
      button.setAttribute("aria-pressed", on);
      examples.hidden = !on || !central.length;
      show(-1);
      draw();
    });
    list.append(made("li", {}, button, examples));
  };
  clusters.forEach((cluster, g) => entry(g, cluster.size, cluster.central));
  if (starts[noise + 1] > starts[noise]) entry(noise, starts[noise + 1] - starts[noise], []);

  // ---------------------------------------------------------------- search
  const MOST_HITS = 100;
  let small = null, timer = 0;
  const find = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), hits = get("hits"), found = get("found");
    hits.replaceChildren();
    matches = null;
    let count = 0;
    if (words.length) {
      small ??= texts.map((text) => text.toLowerCase());
      matches = new Uint8Array(n);
      for (let i = 0; i < n; i++) {
        if (!words.every((word) => small[i].includes(word))) continue;
        matches[i] = 1;
        if (count++ >= MOST_HITS) continue;
        const button = made("button", { type: "button" }, dot(group(i)), made("span", { textContent: texts[i].slice(0, 140) }));
        button.addEventListener("click", () => { goTo(i); paint(); show(i); area.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" }); });
        hits.append(made("li", {}, button));
      }
      found.textContent = `${count.toLocaleString("en")} of ${n.toLocaleString("en")} texts` + (count > MOST_HITS ? `, the first ${MOST_HITS} listed` : "");
    }
    found.hidden = !words.length;
    hits.hidden = !count;
    readColours();
    show(-1);
    draw();
  };
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 120); });
  document.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    search.value = "";
    for (const button of list.querySelectorAll('[aria-pressed="true"]')) button.click();
    find();
  });

  // ---------------------------------------------------------------- size and colour scheme
  const resize = () => {
    const box = area.getBoundingClientRect(), was = { width, height };
    width = Math.max(2, box.width);
    height = Math.max(2, box.height);
    ratio = window.devicePixelRatio || 1;
    for (const each of [canvas, over]) { each.width = Math.round(width * ratio); each.height = Math.round(height * ratio); }
    if (untouched) showAll();
    else { left += (width - was.width) / 2; top += (height - was.height) / 2; }
    readColours();
    paint();
    show(hover);
  };
  new ResizeObserver(resize).observe(area);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
  resize();
})();
