"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const made = (tag, set = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), set);
    element.append(...inside);
    return element;
  };
  const base = location.pathname.replace(/\/?$/, "/"); // behind a proxy there is a path before the server's own
  const count = (n) => n.toLocaleString("en");
  const many = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
  const shown = (score, digits) => score.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace(/^-/, "");
  const clamped = (score) => Math.min(1, Math.max(0, score));
  const picked = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

  // ---------------------------------------------------------------- asking the server
  const KEY = "limbeck-key";
  const kept = (() => {
    try { return window.sessionStorage; } catch { return null; } // where a browser keeps nothing
  })();
  let key = "";
  const ask = async (path, body, signal) => {
    const headers = { Accept: "application/json" };
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(base + path, {
        method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store", credentials: "omit",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    let found = null;
    try {
      found = await answer.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    if (answer.ok && found) return found;
    if (answer.status === 401) {
      get("key-form").hidden = false;
      throw Object.assign(new Error(key ? "The server does not take this key." : "This server wants an API key."), { locked: true, lasts: true });
    }
    const said = found?.error?.message ?? found?.error ?? found?.detail?.message;
    const wait = Number(answer.headers.get("Retry-After"));
    const words = (typeof said === "string" ? said : `The server answered with status ${answer.status}.`) + (wait ? ` (in ${wait} s)` : "");
    throw Object.assign(new Error(words), { lasts: answer.status < 500 && answer.status !== 429 && answer.status !== 408 });
  };

  const sayError = (id, error, again) => {
    const box = get(id);
    box.replaceChildren();
    box.hidden = !error;
    if (!error) return;
    const words = error.message.charAt(0).toUpperCase() + error.message.slice(1);
    box.append(made("p", { textContent: words }));
    if (error.lasts) return; // the same again would be answered the same
    const button = made("button", { type: "button", textContent: "Try again" });
    button.addEventListener("click", again);
    box.append(button);
  };

  /** Runs work a moment after the last call; what an earlier call asked for is dropped. */
  const settling = (work) => {
    let timer = 0, running = null;
    return (wait = 0) => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        running?.abort();
        running = new AbortController();
        work(running.signal).catch((error) => { if (error.name !== "AbortError") throw error; });
      }, wait);
    };
  };
  const TYPING = 350; // ms

  // ---------------------------------------------------------------- vectors
  const numbers = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const view = new DataView(bytes.buffer), found = new Float32Array(raw.length / 4);
    for (let i = 0; i < found.length; i++) found[i] = view.getFloat32(4 * i, true);
    return found;
  };
  const scaled = (vector) => {
    let sum = 0;
    for (const value of vector) sum += value * value;
    const length = Math.sqrt(sum) || 1;
    return vector.map((value) => value / length);
  };
  /** The first dims of a vector as they would be stored, at length 1, or as bits of 1 and −1. */
  const small = (vector, dims, precision) => {
    const first = vector.subarray(0, dims);
    if (precision === "bit") return first.map((value) => (value > 0 ? 1 : -1));
    if (precision === "float") return scaled(first);
    const step = first.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127 || 1;
    return scaled(first.map((value) => Math.round(value / step)));
  };
  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  };
  const compared = (rows, columns, dims, precision) => {
    const right = columns.map((vector) => small(vector, dims, precision)), unit = precision === "bit" ? dims : 1;
    return rows.map((vector) => { const left = small(vector, dims, precision); return right.map((each) => dot(left, each) / unit); });
  };
  const ranked = (scores) => scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);

  // ---------------------------------------------------------------- comparing texts
  const SIDES = { retrieval: ["retrieval.query", "retrieval.passage"], search: ["query", "document"] };
  const MOST_QUERIES = 12, MOST_RANKED = 20, MOST_CELLS = 40; // that are shown
  const PRECISIONS = { float: [32, "float32"], int8: [8, "int8"], bit: [1, "1 bit"] };
  let widths = [1];
  let now = null; // { queries, texts, query, text, task }: what was typed, and its vectors
  const remembered = new Map(); // by task and texts: so that a change of the queries does not send the texts again

  const lines = (id) => get(id).value.split("\n").map((text, i) => ({ text: text.trim(), line: i + 1 })).filter((each) => each.text);

  const vectorsOf = async (task, side, signal) => {
    if (!side.length) return { vectors: [], task };
    const name = JSON.stringify([task, side.map((each) => each.text)]);
    if (remembered.has(name)) return remembered.get(name);
    let found;
    try {
      found = await ask("v1/embeddings", { input: side.map((each) => each.text), task, encoding_format: "base64" }, signal);
    } catch (error) {
      // the server counts the texts it was sent, from 0; people count lines
      error.message = error.message
        .replace(/\btext (\d+)\b/, (all, i) => (side[i] ? `the ${side[i].of ?? "text"} in line ${side[i].line}` : all))
        .replace(": shorten it, or ask for it to be cut", ": shorten it"); // this page never cuts
      throw error;
    }
    const answer = { vectors: found.data.map((each) => numbers(each.embedding)), task: found.task, print: found.fingerprint };
    if (remembered.size > 50) remembered.clear();
    remembered.set(name, answer);
    return answer;
  };

  const compare = settling(async (signal) => {
    const results = document.querySelector("#compare .results");
    const queries = lines("queries").map((each) => ({ ...each, of: "query" })), texts = lines("texts");
    const task = get("task").value, both = SIDES[task];
    results.setAttribute("aria-busy", "true");
    try {
      let query, text;
      if (task === "auto") { // one request, as two could mean two blends
        const found = await vectorsOf(task, [...queries, ...texts], signal);
        query = { vectors: found.vectors.slice(0, queries.length) };
        text = { vectors: found.vectors.slice(queries.length), task: found.task };
      } else {
        [query, text] = await Promise.all([
          vectorsOf(both ? both[0] : task, queries, signal), vectorsOf(both ? both[1] : task, texts, signal),
        ]);
      }
      if (signal.aborted) return;
      if (query.print && text.print && query.print !== text.print) { // the server has another model since
        remembered.clear();
        compare();
        return;
      }
      now = { queries, texts, query: query.vectors, text: text.vectors, task: both ? both.join(" and ") : text.task };
      sayError("compare-error", null);
      results.classList.remove("stale");
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      sayError("compare-error", error, () => compare());
      get("compare-said").textContent = now ? "What is shown is from before." : "";
      results.classList.add("stale");
    }
    results.removeAttribute("aria-busy");
  });

  const drawControls = () => {
    const dims = widths[get("dims").value], precision = picked("precision"), [bits, name] = PRECISIONS[precision];
    const bytes = Math.ceil((dims * bits) / 8), most = 4 * widths[widths.length - 1];
    get("dims-said").textContent = dims;
    get("dims").setAttribute("aria-valuetext", `${dims} dims`);
    [...get("ticks").children].forEach((tick, i) => tick.classList.toggle("on", widths[i] === dims));
    const times = most / bytes, of = `${dims} × ${name}`;
    get("bytes").replaceChildren(
      made("b", { textContent: `${many(bytes, "byte")}` }),
      `a vector: ${of}`, made("br"),
      times > 1 ? `${count(Math.round(times * 10) / 10)} times smaller than all` : "all that the model gives", made("br"),
      `a million: ${bytes >= 1000 ? `${count(Math.round(bytes / 100) / 10)} GB` : `${count(bytes)} MB`}`,
    );
    return { dims, precision, bytes, of };
  };

  const draw = () => {
    const { dims, precision, bytes, of } = drawControls();
    if (!now) return;
    const { queries, texts } = now, full = widths[widths.length - 1];
    const scores = compared(now.query, now.text, dims, precision);
    const whole = dims === full && precision === "float" ? scores : compared(now.query, now.text, full, "float");
    drawRanking(queries, texts, scores, whole);
    drawMap(queries, texts, scores, dims, precision);
    const kind = precision === "bit" ? "Hamming similarities (1 − 2 × the share of bits that differ)" : "cosine similarities";
    const moved = whole === scores ? 0 : scores.filter((row, i) => ranked(row)[0] !== ranked(whole[i])[0]).length;
    const same = whole === scores || !queries.length || !texts.length ? "" : moved
      ? ` ${moved} of ${many(queries.length, "query").replace("querys", "queries")} ${moved === 1 ? "has" : "have"} another first text than with all dims at float32.`
      : " The first text of each query is the same as with all dims at float32.";
    get("compare-said").textContent = !texts.length ? "Type a text." : `Scores are ${kind} of ${of}, ${many(bytes, "byte")} a vector; task ${now.task}.${same}`;
  };

  const drawRanking = (queries, texts, scores, whole) => {
    const cards = queries.slice(0, MOST_QUERIES).map((query, i) => {
      const order = ranked(scores[i]), before = ranked(whole[i]);
      const rows = order.slice(0, MOST_RANKED).map((t, at) => row(at, before.indexOf(t), texts[t].text, scores[i][t]));
      const card = made("div", { className: "card" }, made("h3", { textContent: query.text }), made("ol", {}, ...rows));
      if (order.length > rows.length) card.append(made("p", { className: "more", textContent: `and ${count(order.length - rows.length)} more` }));
      return card;
    });
    if (!queries.length) cards.push(made("p", { className: "more", textContent: "Type a query to rank the texts." }));
    if (queries.length > MOST_QUERIES) cards.push(made("p", { className: "more", textContent: `and ${many(queries.length - MOST_QUERIES, "more query").replace("querys", "queries")}` }));
    get("ranking").replaceChildren(...cards);
  };
  const row = (at, before, text, score) => {
    const number = made("span", { className: "score" }), by = before - at;
    if (by) number.append(made("small", {}, made("span", { ariaHidden: "true", textContent: `${by > 0 ? "▲" : "▼"} ${Math.abs(by)}` }),
      made("span", { className: "unseen", textContent: `${Math.abs(by)} ${by > 0 ? "higher" : "lower"} than with all dims at float32, ` })));
    number.append(shown(score, 3));
    return made("li", { className: "row" }, made("span", { className: "rank", textContent: at + 1 }), made("span", { className: "text", textContent: text }),
      number, bar(score));
  };
  const bar = (share) => {
    const fill = made("i");
    fill.style.width = `${100 * clamped(share)}%`;
    const track = made("span", { className: "bar" }, fill);
    track.setAttribute("aria-hidden", "true");
    return track;
  };

  const drawMap = (queries, texts, scores, dims, precision) => {
    const own = picked("sides") === "texts";
    get("map-said").replaceChildren();
    const rows = (own ? texts : queries).slice(0, MOST_CELLS), columns = texts.slice(0, MOST_CELLS);
    if (!rows.length || !columns.length) {
      get("map").replaceChildren(made("p", { className: "more", textContent: own ? "Type a text." : "Type a query and a text." }));
      return;
    }
    const cells = own ? compared(now.text.slice(0, MOST_CELLS), now.text.slice(0, MOST_CELLS), dims, precision) : scores;
    const values = cells.slice(0, rows.length).flatMap((line, i) => line.slice(0, columns.length).filter((_, j) => !own || i !== j));
    const top = Math.min(1, Math.max(0.2, Math.ceil(10 * Math.max(0, ...values)) / 10)); // the darkest there is, in tenths
    const heading = (text, scope) => { const th = made("th", { scope, title: text }, made("span", { textContent: text })); return th; };
    const body = rows.map((each, i) => {
      const line = cells[i].slice(0, columns.length), best = Math.max(...line.filter((_, j) => !own || j !== i));
      const tds = line.map((score, j) => {
        const self = own && i === j, td = made("td", { textContent: shown(score, 2), className: self ? "self" : score === best ? "best" : "" });
        td.style.setProperty("--v", clamped(score / top).toFixed(3));
        return td;
      });
      return made("tr", {}, heading(each.text, "row"), ...tds);
    });
    const left = Math.max(0, (own ? texts : queries).length - rows.length, texts.length - columns.length);
    get("map-said").replaceChildren("0", made("span", { className: "scale", ariaHidden: "true" }), `${top}; the highest of a row is framed`,
      left ? `; the first ${MOST_CELLS} are shown` : "");
    const corner = made("td", { className: "self" });
    get("map").replaceChildren(made("table", { className: "heat" },
      made("thead", {}, made("tr", {}, corner, ...columns.map((each) => heading(each.text, "col")))), made("tbody", {}, ...body)));
  };

  // ---------------------------------------------------------------- searching an index
  let indexes = [];
  const index = () => indexes.find((each) => each.name === get("index").value);
  const conditions = (text) => {
    const found = {};
    for (const part of text.split(";").map((each) => each.trim()).filter(Boolean)) {
      const [, field, op, value] = part.match(/^(.+?)(!=|<=|>=|=|<|>)(.*)$/) ?? [];
      if (!field) throw Object.assign(new Error("A filter is written lang=en or year>=2020; several with ; between them."), { lasts: true });
      const values = (op === "=" || op === "!=" ? value.split(",") : [value]).map((each) => each.trim());
      (found[field.trim()] ??= {})[op] = values.length === 1 ? values[0] : values;
    }
    return found;
  };
  const example = ([name, kind]) => ({ text: `${name}=one,two`, boolean: `${name}=true`, integer: `${name}>=10`, number: `${name}>=0.5` }[kind]);
  const sayIndex = () => {
    const one = index(), bits = { float16: 16, int8: 8, binary: 1 }[one.precision];
    get("index-said").textContent = `${many(one.documents, "document")}; ${one.dimensions} dims × ${one.precision === "binary" ? "1 bit" : one.precision} = ${many(Math.ceil((one.dimensions * bits) / 8), "byte")} a vector` +
      (one.precision === "float16" ? "" : ", put in order by float16") + `; task ${one.task ?? "none"}`;
    const fields = Object.entries(one.fields).filter(([, kind]) => kind !== "other");
    get("where-hint").textContent = fields.length
      ? `such as ${example(fields[0])}, several with ; between them. Fields: ${fields.map(([name, kind]) => `${name} (${kind})`).join(", ")}`
      : "Documents of this index have no fields to filter by.";
    get("where").disabled = !fields.length;
    for (const option of get("by").options) option.disabled = !one.words && option.value !== "vectors";
    if (!one.words) get("by").value = "vectors";
    get("exact").disabled = get("by").value === "words";
  };
  const search = settling(async (signal) => {
    const results = document.querySelector("#search .results"), query = get("query").value.trim(), by = get("by").value;
    if (!query) {
      get("hits").replaceChildren();
      get("search-said").textContent = "Type a query.";
      sayError("search-error", null);
      results.removeAttribute("aria-busy");
      return;
    }
    results.setAttribute("aria-busy", "true");
    try {
      const k = Math.min(100, Math.max(1, Math.round(Number(get("k").value)) || 10));
      const body = { query, index: get("index").value, k, by, exact: get("exact").checked && by !== "words", where: conditions(get("where").value) };
      const found = await ask("v1/search", body, signal), hits = found.data[0].hits;
      if (signal.aborted) return;
      sayError("search-error", null);
      const kind = { vectors: "cosine similarities", words: "BM25", both: "the sum of 1 / (60 + rank) by vectors and by words" }[by];
      get("search-said").textContent = hits.length ? `${many(hits.length, "hit")}. Scores: ${kind}.` : "Nothing was found.";
      const top = by === "vectors" ? 1 : hits[0]?.score || 1;
      get("hits").replaceChildren(...hits.map((hit) => hitOf(hit, hit.score / top, by === "both" ? 4 : 3)));
    } catch (error) {
      if (error.name === "AbortError") return;
      sayError("search-error", error, () => search());
      get("search-said").textContent = "";
      get("hits").replaceChildren();
    }
    results.removeAttribute("aria-busy");
  });
  const hitOf = (hit, share, digits) => {
    const text = made("p", { className: "text", textContent: hit.text }), notes = made("p", { className: "notes" });
    if (hit.title) notes.append(made("span", { textContent: hit.id }));
    if (hit.chunks > 1) notes.append(made("span", { textContent: `part ${hit.chunk + 1} of ${hit.chunks}, characters ${count(hit.start)} to ${count(hit.end)}` }));
    for (const [name, value] of Object.entries(hit.fields)) {
      notes.append(made("span", { textContent: `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}` }));
    }
    if (hit.text.length > 400 || hit.text.split("\n").length > 4) {
      const button = made("button", { type: "button", textContent: "Show all of it" });
      text.classList.add("cut");
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        const cut = text.classList.toggle("cut");
        button.textContent = cut ? "Show all of it" : "Show less";
        button.setAttribute("aria-expanded", String(!cut));
      });
      notes.append(button);
    }
    return made("li", { className: "row" }, made("span", { className: "rank", textContent: hit.rank }),
      made("span", { className: "name", textContent: hit.title || hit.id }), made("span", { className: "score", textContent: shown(hit.score, digits) }),
      bar(share), text, notes);
  };

  // ---------------------------------------------------------------- tabs
  const tabs = [get("tab-compare"), get("tab-search")];
  const choose = (tab) => {
    for (const each of tabs) {
      const on = each === tab;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
      get(each.getAttribute("aria-controls")).hidden = !on;
    }
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (e) => {
      const to = { ArrowLeft: tabs[1 - i], ArrowRight: tabs[1 - i], Home: tabs[0], End: tabs[1] }[e.key];
      if (!to) return;
      e.preventDefault();
      choose(to);
      to.focus();
    });
  });

  // ---------------------------------------------------------------- the start
  const start = async () => {
    let info;
    try {
      key = "";
      try {
        info = await ask("info");
        kept?.removeItem(KEY); // the server has no keys
      } catch (error) {
        if (!error.locked) throw error;
        key = get("key").value.trim() || kept?.getItem(KEY) || "";
        if (!key) throw error;
        info = await ask("info");
        kept?.setItem(KEY, key);
      }
      indexes = info.indexes.length ? (await ask("v1/indexes")).data : [];
    } catch (error) {
      if (error.locked) kept?.removeItem(KEY);
      document.body.classList.add("unready");
      choose(tabs[0]);
      sayError("compare-error", error, start);
      if (error.locked) get("key").focus();
      return;
    }
    get("key").value = key;
    sayError("compare-error", null);
    document.body.classList.remove("unready");
    widths = info.dimensions;
    get("dims").max = widths.length - 1;
    get("dims").value = widths.length - 1;
    get("ticks").replaceChildren(...widths.map((width) => made("span", { textContent: width })));
    const sides = Object.keys(SIDES).filter((name) => SIDES[name].every((task) => info.tasks.includes(task)));
    const paired = sides.flatMap((name) => SIDES[name]);
    const tasks = [...sides, ...info.tasks.filter((task) => !paired.includes(task))];
    get("task").replaceChildren(...tasks.map((task) => made("option", { value: task, textContent: task })));
    const facts = get("facts"), most = widths[widths.length - 1];
    facts.replaceChildren(`${many(most, "dim")}, texts of up to ${many(info.max_input_length, "token")}, limbeck ${info.version}, fingerprint ${info.model_sha.slice(0, 12)} · `,
      made("a", { href: `${base}docs`, textContent: "API" }));
    get("tabs").hidden = !indexes.length;
    if (indexes.length) {
      get("index").replaceChildren(...indexes.map((each) => made("option", { value: each.name, textContent: each.name })));
      for (const tab of tabs) get(tab.getAttribute("aria-controls")).setAttribute("role", "tabpanel");
      sayIndex();
    }
    drawControls();
    compare();
  };

  get("key-form").addEventListener("submit", (e) => { e.preventDefault(); remembered.clear(); start(); });
  for (const id of ["queries", "texts"]) get(id).addEventListener("input", () => compare(TYPING));
  get("task").addEventListener("change", () => compare());
  get("dims").addEventListener("input", draw);
  get("precision").addEventListener("change", draw);
  get("sides").addEventListener("change", draw);
  for (const id of ["query", "where", "k"]) get(id).addEventListener("input", () => search(TYPING));
  for (const id of ["index", "by", "exact"]) get(id).addEventListener("change", () => { sayIndex(); search(); });
  start();
})();
