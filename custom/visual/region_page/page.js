// What the page shows and does. Data (element "data", JSON):
//   dataset, localizer, threshold, scans, planned, stopped, skipped, prompts
//   thresholds, levels: the stops of the slider, and the lowest map level (0..255) that counts at each
//   maps: of every map, also of those without a card: prompt (index), max (level), pieces, border, and coverage at each
//         stop (float32, base64)
//   rules, limits: why a map is suspicious, see custom/regions/report.py, whose flags this script computes again for
//         the threshold of the slider
//   cards: maps with pictures: map (index), scan, picture (index), region (PNG), aspect, seconds, file
//   pictures: JPEG files;  gate, gate_note, gate_help
// All text goes through textContent, never through markup: names of scans and prompts may hold anything.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const { maps, limits, rules, prompts, thresholds, levels: lowest } = report;
  const stops = thresholds.length;
  const coverageAt = floats(maps.coverage);
  const home = thresholds.indexOf(report.threshold);
  const STATES = { all: "All", empty: "Nothing found", suspicious: "Suspicious", fine: "Fine" };
  const OVERLAYS = { region: "Region", probability: "Probability", none: "Off" };
  const EMPTY = new Set(["empty", "below threshold"]);
  const SHAPE = new Set(["scattered", "at the border"]);
  const FOREIGN = new Set(["other organ", "absent concept", "nonsense"]);
  const view = { stop: home, state: "all", overlay: "region", prompt: "", text: "" };
  const $ = (id) => document.getElementById(id);

  // ------------------------------------------------------------------------------------------------------- helpers
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
      else made[name] = value;
    }
    made.append(...children);
    return made;
  }

  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  // As percent() in custom/regions/report.py.
  function percent(share) {
    const value = 100 * share;
    if (value >= 10 || value === 0) return `${value.toFixed(0)} %`;
    if (value >= 1) return `${value.toFixed(1)} %`;
    return value < 0.01 ? "< 0.01 %" : `${Number(value.toPrecision(2))} %`;
  }

  function median(sorted) {
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }

  const ascending = (a, b) => a - b;
  const number = (value) => value.toLocaleString("en");
  const many = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;

  // --------------------------------------------------------------------------------------- figures at a threshold
  // As usual_coverage() in custom/regions/report.py.
  function usualCoverage(coverages) {
    const logits = coverages.filter((each) => each > 0 && each < 1).map((each) => Math.log(each / (1 - each)));
    if (logits.length < limits.fewest) return null;
    const middle = median(logits.sort(ascending));
    const spread = median(logits.map((each) => Math.abs(each - middle)).sort(ascending));
    const reach = (limits.far * Math.max(spread, limits.least_spread)) / 0.6745;
    return [middle - reach, middle + reach].map((each) => 1 / (1 + Math.exp(-each)));
  }

  function figuresAt(stop) {
    const coverage = maps.prompt.map((_, index) => coverageAt[index * stops + stop]);
    const ofPrompt = prompts.map((_, prompt) => coverage.filter((_, index) => maps.prompt[index] === prompt));
    const usual = ofPrompt.map(usualCoverage);
    const flags = coverage.map((share, index) => flagsOf(index, share, usual[maps.prompt[index]]));
    return { coverage, ofPrompt, usual, flags };
  }

  function flagsOf(index, share, usual) {
    const found = share > 0;
    const applies = {
      empty: maps.max[index] === 0,
      "below threshold": !found && maps.max[index] > 0,
      large: share > limits.largest,
      "unusual size": found && usual !== null && (share < usual[0] || share > usual[1]),
      scattered: found && maps.pieces[index] > limits.most_pieces,
      "at the border": found && maps.border[index] > limits.largest_border,
    };
    return rules.filter((rule) => applies[rule.flag]).map((rule) => rule.flag);
  }

  function stateOf(flags) {
    if (!flags.length) return "fine";
    return flags.some((flag) => EMPTY.has(flag)) ? "empty" : "suspicious";
  }

  function reasonFor(flag, index, figures) {
    const [low, high] = figures.usual[maps.prompt[index]] ?? [0, 0];
    const values = {
      threshold: String(thresholds[view.stop]),
      max: (maps.max[index] / 255).toFixed(2),
      coverage: percent(figures.coverage[index]),
      largest: percent(limits.largest),
      low: percent(low),
      high: percent(high),
      pieces: String(maps.pieces[index]),
      border: percent(maps.border[index]),
    };
    const reason = rules.find((rule) => rule.flag === flag).reason.replace(/{(\w+)}/g, (_, name) => values[name]);
    return SHAPE.has(flag) && view.stop !== home ? `${reason} (At the threshold of ${report.threshold}.)` : reason;
  }

  let figures = figuresAt(view.stop);

  // ------------------------------------------------------------------------------------------------------ overview
  function fact(name, value) {
    return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
  }

  function describe(value) {
    if (value === null || typeof value !== "object") return String(value);
    const each = Array.isArray(value) ? value.map(describe) : Object.entries(value).map(([k, v]) => `${k}: ${describe(v)}`);
    return each.join(", ");
  }

  function showHead() {
    $("subtitle").textContent = report.dataset;
    document.title = `Region maps: ${prompts.join(", ")}`;
    $("facts").append(
      fact("Scans", number(report.scans)),
      fact(prompts.length === 1 ? "Prompt" : "Prompts", prompts.join(" · ")),
      fact("Localizer", String(report.localizer.name ?? "unnamed")),
      fact("Threshold of the run", String(report.threshold)),
    );
    const { name, ...settings } = report.localizer;
    $("settings").hidden = !Object.keys(settings).length;
    $("settings").querySelector("p").textContent = describe(settings);
    $("stopped").hidden = !report.stopped;
    $("stopped").textContent =
      `The run stopped after ${number(report.scans)} of ${many(report.planned, "scan")}: ${report.stopped} ` +
      "What is shown here is kept; run the same command again to go on from there.";
    $("skipped").hidden = !report.skipped.length;
    $("skipped").querySelector("summary").textContent = `${many(report.skipped.length, "scan")} left out`;
    for (const { scan_id, message } of report.skipped) {
      $("skipped").querySelector("ul").append(element("li", { textContent: `${scan_id}: ${message}` }));
    }
  }

  const panels = prompts.map((prompt) => {
    const verdict = report.gate?.prompts?.[prompt]?.verdict;
    const panel = element("section", { className: "panel" });
    const title = element("div", { className: "row" }, element("h3", { textContent: prompt }));
    if (verdict) title.append(verdictTag(verdict));
    const facts = element("dl", { className: "figures" });
    const chart = element("div");
    const counts = element("ul", { className: "counts", "aria-label": "How many maps are suspicious, and why" });
    panel.append(title, facts, chart, counts);
    $("overview").append(panel);
    return { facts, chart, counts };
  });

  function showOverview() {
    prompts.forEach((prompt, index) => {
      const all = figures.ofPrompt[index];
      const found = all.filter((share) => share > 0).sort(ascending);
      const flags = figures.flags.filter((_, map) => maps.prompt[map] === index);
      const of = (state) => number(flags.filter((each) => stateOf(each) === state).length);
      panels[index].facts.replaceChildren(
        fact("Maps", number(all.length)),
        fact("Median coverage", found.length ? percent(median([...all].sort(ascending))) : "0 %"),
        fact("Nothing found", of("empty")),
        fact("Suspicious", of("suspicious")),
      );
      panels[index].chart.replaceChildren(histogram(all, prompt));
      panels[index].counts.replaceChildren(
        ...rules
          .map(({ flag }) => [flag, flags.filter((each) => each.includes(flag)).length])
          .filter(([, count]) => count)
          .map(([flag, count]) => element("li", {}, flagTag(flag, `${flag}: ${number(count)}`))),
      );
    });
  }

  function flagTag(flag, text) {
    return element("span", { className: `tag ${EMPTY.has(flag) ? "bad" : "care"}`, textContent: text });
  }

  // Bars of coverage, and one apart for the scans in which nothing was found.
  function histogram(coverages, prompt) {
    const [width, height, left, floor, bins] = [560, 170, 34, 140, 25];
    const found = coverages.filter((share) => share > 0);
    const largest = found.reduce((a, b) => Math.max(a, b), 0);
    const top = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1].find((end) => end >= largest);
    const counts = new Array(bins).fill(0);
    for (const share of found) counts[Math.min(bins - 1, Math.floor((share / top) * bins))] += 1;
    const none = coverages.length - found.length;
    const highest = Math.max(1, none, ...counts);
    const start = left + 62;
    const step = (width - start - 14) / bins;
    const svg = svgElement("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img" });
    const middle = found.length ? `, median of the found ones ${percent(median([...found].sort(ascending)))}` : "";
    svg.setAttribute("aria-label", `Coverage of ${many(coverages.length, "scan")} for ${prompt}: nothing found in ${none}${middle}.`);
    const bar = (x, wide, count, kind, title) => {
      const tall = count ? Math.max(1.5, (count / highest) * (floor - 14)) : 0;
      const made = svgElement("rect", { x, width: wide, y: floor - tall, height: tall, class: kind });
      made.append(svgElement("title", {}, title));
      svg.append(made);
    };
    bar(left, 22, none, "none", `nothing found: ${many(none, "scan")}`);
    counts.forEach((count, bin) => {
      const range = `${percent((bin / bins) * top)} to ${percent(((bin + 1) / bins) * top)}`;
      bar(start + bin * step, step - 1.5, count, "bar", `${range}: ${many(count, "scan")}`);
    });
    svg.append(svgElement("line", { x1: left, x2: width - 14, y1: floor + 0.5, y2: floor + 0.5 }));
    const label = (x, y, text, anchor) => svg.append(svgElement("text", { x, y, "text-anchor": anchor }, text));
    label(left + 11, floor + 15, "none", "middle");
    label(left - 4, 22, number(highest), "end");
    label(left - 4, floor, "0", "end");
    for (const part of [0, 0.2, 0.4, 0.6, 0.8, 1]) label(start + part * bins * step, floor + 15, `${Number((100 * part * top).toPrecision(2))} %`, "middle");
    label((start + width) / 2, height - 2, "share of the scan that the region covers", "middle");
    return svg;
  }

  function svgElement(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // ---------------------------------------------------------------------------------------------------------- gate
  function verdictTag(verdict) {
    const [kind, mark] = { use: ["good", "✓"], "use with care": ["care", "!"] }[verdict] ?? ["bad", "✕"];
    return element("span", { className: `tag verdict ${kind}`, textContent: `${mark} ${verdict}` });
  }

  function showGate() {
    const gate = $("gate");
    if (report.gate_note) gate.append(element("p", { className: "notice", textContent: report.gate_note }));
    if (!report.gate) {
      gate.append(element("div", { className: "panel" }, element("p", { textContent: report.gate_help })));
      return;
    }
    const { dataset, scans, threshold } = report.gate;
    const where = [scans && `on ${many(scans, "scan")}`, dataset && `of ${dataset}`].filter(Boolean).join(" ");
    const how = typeof threshold === "number" ? `at the threshold ${threshold}` : "by their probabilities";
    gate.append(element("p", { className: "quiet", textContent: `Measured ${where}; maps compared ${how}.` }));
    for (const [prompt, each] of Object.entries(report.gate.prompts)) gate.append(gatePanel(prompt, each));
  }

  function gatePanel(prompt, { verdict, reasons = [], measures = {}, phrasings = [] }) {
    const panel = element("article", { className: "panel" });
    panel.append(element("div", { className: "row" }, element("h3", { textContent: prompt }), verdictTag(String(verdict))));
    if (reasons.length) panel.append(element("ul", {}, ...reasons.map((reason) => element("li", { textContent: reason }))));
    const same = phrasings.filter((each) => !FOREIGN.has(each.kind));
    const foreign = phrasings.filter((each) => FOREIGN.has(each.kind));
    const columns = element("div", { className: "columns" });
    if (same.length) columns.append(bars(same, "Said otherwise: the map should stay", ""));
    if (foreign.length) columns.append(bars(foreign, "Something else said: the map should change", "foreign"));
    if (Object.keys(measures).length) columns.append(table(measures));
    const details = element("details", { open: verdict !== "use" }, element("summary", { textContent: "Phrasings and measures" }), columns);
    if (columns.children.length) panel.append(details);
    return panel;
  }

  function table(measures) {
    const body = element("tbody");
    const line = (name, value, kind) =>
      body.append(element("tr", {}, element("th", { scope: "row", className: kind, textContent: name }), element("td", { textContent: value })));
    const figure = (value) => {
      if (Array.isArray(value)) return value.map(figure).join(" to ");
      return typeof value === "number" ? String(Number(value.toPrecision(3))) : "–";
    };
    const { intervals, ...others } = measures;
    const bounds = (name) => (Array.isArray(intervals?.[name]) ? ` (${figure(intervals[name])})` : "");
    for (const [name, value] of Object.entries(others)) {
      const parts = value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : null;
      if (!parts) line(spoken(name), figure(value) + bounds(name), "");
      else if (parts.length) line(spoken(name), "", "");
      for (const [part, each] of parts ?? []) line(spoken(part), figure(each), "part");
    }
    return element("div", {}, element("h4", { textContent: "Measures" }), element("table", {}, body));
  }

  const spoken = (name) => name.replaceAll("_", " ");

  // Similarity to the map of the prompt itself, a bar a phrase.
  function bars(phrasings, title, kind) {
    const box = element("div", { className: kind }, element("h4", { textContent: title }));
    for (const kind of new Set(phrasings.map((each) => each.kind))) {
      const group = element("div", { className: "bars" });
      for (const each of phrasings.filter((other) => other.kind === kind)) {
        const known = typeof each.similarity === "number";
        const fill = element("div", { className: "fill" });
        fill.style.width = `${100 * Math.min(1, Math.max(0, known ? each.similarity : 0))}%`;
        const value = each.refused ? "refused" : known ? each.similarity.toFixed(2) : "–";
        const hint = `similarity ${value}` + (typeof each.coverage === "number" ? `, coverage ${percent(each.coverage)}` : "");
        group.append(
          element("span", { className: "name", textContent: each.text }),
          element("div", { className: "track", title: hint, "aria-hidden": "true" }, fill),
          element("span", { className: "value", textContent: value }),
        );
      }
      box.append(element("p", { className: "quiet", textContent: kind }), group);
    }
    return box;
  }

  // --------------------------------------------------------------------------------- pictures with the region on top
  // All cards have the same shape, that of the middle one.
  const aspects = report.cards.map((card) => card.aspect).sort(ascending);
  const boxAspect = aspects.length ? Math.min(3.2, Math.max(0.8, median(aspects))) : 1;
  const pictureUrl = (card) => `data:image/jpeg;base64,${report.pictures[card.picture]}`;

  function makeFrame(card, longest) {
    const image = element("img", { alt: "", decoding: "async" });
    const canvas = element("canvas");
    const box = element("div", { className: "frame" }, image, canvas);
    box.style.aspectRatio = String(card.aspect);
    box.style.width = `${100 * Math.min(1, card.aspect / boxAspect)}%`;
    return { card, longest, box, image, canvas, levels: null, visible: false, painted: "" };
  }

  // The levels of the map at the resolution of the display, once; thresholds are then applied to them.
  async function load(frame) {
    if (frame.loading) return frame.loading;
    frame.loading = (async () => {
      frame.image.src = pictureUrl(frame.card);
      const region = new Image();
      region.src = `data:image/png;base64,${frame.card.region}`;
      await region.decode();
      const zoom = Math.max(1, Math.round(frame.longest / Math.max(region.naturalWidth, region.naturalHeight)));
      frame.canvas.width = region.naturalWidth * zoom;
      frame.canvas.height = region.naturalHeight * zoom;
      const context = frame.canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(region, 0, 0, frame.canvas.width, frame.canvas.height);
      const pixels = context.getImageData(0, 0, frame.canvas.width, frame.canvas.height).data;
      frame.levels = Uint8Array.from({ length: pixels.length / 4 }, (_, index) => pixels[4 * index]);
    })();
    return frame.loading;
  }

  function paint(frame) {
    const wanted = `${view.stop} ${view.overlay}`;
    if (!frame.levels || frame.painted === wanted) return;
    frame.painted = wanted;
    const { width, height } = frame.canvas;
    const context = frame.canvas.getContext("2d", { willReadFrequently: true });
    const drawn = context.createImageData(width, height);
    if (view.overlay === "probability") tint(drawn.data, frame.levels);
    if (view.overlay === "region") outline(drawn.data, frame.levels, width, lowest[view.stop]);
    context.putImageData(drawn, 0, 0);
  }

  function tint(target, levels) {
    for (let index = 0; index < levels.length; index += 1) set(target, index, 255, 115, 26, 0.75 * levels[index]);
  }

  function outline(target, levels, width, least) {
    for (let index = 0; index < levels.length; index += 1) {
      if (levels[index] < least) continue;
      const column = index % width;
      const edge =
        (column > 0 && levels[index - 1] < least) ||
        (column < width - 1 && levels[index + 1] < least) ||
        levels[index - width] < least ||
        levels[index + width] < least;
      if (edge) set(target, index, 255, 214, 60, 255);
      else set(target, index, 255, 115, 26, 92);
    }
  }

  function set(target, index, red, green, blue, alpha) {
    target[4 * index] = red;
    target[4 * index + 1] = green;
    target[4 * index + 2] = blue;
    target[4 * index + 3] = alpha;
  }

  async function show(frame) {
    frame.visible = true;
    await load(frame);
    paint(frame);
  }

  // --------------------------------------------------------------------------------------------------------- cards
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const frame = cards[Number(entry.target.dataset.card)].frame;
        if (entry.isIntersecting) show(frame);
        else frame.visible = false;
      }
    },
    { rootMargin: "400px" },
  );

  const cards = report.cards.map((card, index) => {
    const prompt = prompts[maps.prompt[card.map]];
    const frame = makeFrame(card, 320);
    const picture = element("button", { type: "button", className: "picture", "aria-label": `Enlarge ${card.scan}, ${prompt}` }, frame.box);
    const covered = element("p");
    const reasons = element("ul", { className: "reasons" });
    const text = element("div", { className: "text" }, element("h3", { textContent: card.scan }));
    if (prompts.length > 1) text.append(element("p", { className: "quiet", textContent: prompt }));
    text.append(covered, reasons);
    const item = element("li", { className: "card" }, picture, text);
    item.dataset.card = String(index);
    picture.addEventListener("click", () => enlarge(index));
    watcher.observe(item);
    return { card, prompt, frame, item, covered, reasons, name: card.scan.toLowerCase(), state: "", shown: "" };
  });

  function refreshCards() {
    for (const each of cards) {
      const index = each.card.map;
      const flags = figures.flags[index];
      each.state = stateOf(flags);
      each.item.dataset.state = each.state;
      each.covered.replaceChildren(...covering(index));
      const texts = flags.map((flag) => [flag, reasonFor(flag, index, figures)]);
      const key = JSON.stringify(texts);
      if (key !== each.shown) {
        each.shown = key;
        each.reasons.replaceChildren(...texts.map(reasonItem));
      }
      if (each.frame.visible) paint(each.frame);
    }
  }

  function covering(index) {
    return [
      element("span", { className: "covered", textContent: percent(figures.coverage[index]) }),
      element("span", { className: "quiet", textContent: ` covered · max ${(maps.max[index] / 255).toFixed(2)}` }),
    ];
  }

  function reasonItem([flag, reason]) {
    return element("li", { className: EMPTY.has(flag) ? "bad" : "care" }, element("b", { textContent: flag }), reason);
  }

  const RANK = { empty: 0, suspicious: 1, fine: 2 };
  let order = cards.map((_, index) => index);

  function sortCards() {
    const flags = (index) => figures.flags[cards[index].card.map].length;
    const wanted = [...order].sort(
      (a, b) => RANK[cards[a].state] - RANK[cards[b].state] || flags(b) - flags(a) || cards[a].card.map - cards[b].card.map,
    );
    if ($("cards").children.length && wanted.every((each, place) => each === order[place])) return;
    order = wanted;
    $("cards").append(...order.map((index) => cards[index].item));
  }

  function filterCards() {
    const text = view.text.trim().toLowerCase();
    const near = (each) => (!view.prompt || each.prompt === view.prompt) && each.name.includes(text);
    const counts = { all: 0, empty: 0, suspicious: 0, fine: 0 };
    let shown = 0;
    for (const each of cards) {
      const fits = near(each);
      if (fits) counts.all += 1;
      if (fits) counts[each.state] += 1;
      each.item.hidden = !fits || (view.state !== "all" && view.state !== each.state);
      if (!each.item.hidden) shown += 1;
    }
    for (const [state, label] of Object.entries(STATES)) $(`states-${state}-label`).textContent = `${label} ${number(counts[state])}`;
    $("matching").textContent = shown ? `${many(shown, "card")}, suspicious ones first.` : "No card fits these filters.";
  }

  // ------------------------------------------------------------------------------------------------------ enlarged
  let large = null;
  let opened = 0;

  const listed = () => order.filter((index) => !cards[index].item.hidden);

  function enlarge(index) {
    opened = index;
    const { card, prompt } = cards[index];
    large = makeFrame(card, 1000);
    large.box.style.width = `min(100%, calc(62vh * ${card.aspect}))`;
    $("large-picture").replaceChildren(large.box);
    $("large-title").textContent = prompts.length > 1 ? `${card.scan} · ${prompt}` : card.scan;
    show(large);
    refreshLarge();
    if (!$("large").open) $("large").showModal();
  }

  function refreshLarge() {
    const { card } = cards[opened];
    const list = listed();
    const place = list.indexOf(opened);
    const made = card.seconds ? `Made in ${card.seconds} s. ` : "";
    const texts = figures.flags[card.map].map((flag) => reasonItem([flag, reasonFor(flag, card.map, figures)]));
    $("large-text").replaceChildren(
      element("p", {}, ...covering(card.map)),
      element("p", { className: "quiet" }, `${made}Threshold ${thresholds[view.stop]}. Map: `, element("code", { textContent: card.file })),
      element("ul", { className: "reasons" }, ...texts),
    );
    $("position").textContent = `${place + 1} of ${list.length}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place >= list.length - 1;
  }

  function step(by) {
    const list = listed();
    const next = list[list.indexOf(opened) + by];
    if (next !== undefined) enlarge(next);
  }

  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("large").close());
  $("large").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("large").addEventListener("click", (event) => {
    if (event.target === $("large")) $("large").close();
  });

  // ------------------------------------------------------------------------------------------------------ controls
  function segments(place, name, choices, choose) {
    for (const [value, label] of Object.entries(choices)) {
      const input = element("input", { type: "radio", name, id: `${place}-${value}`, value, checked: view[name] === value });
      input.addEventListener("change", () => choose(value));
      $(place).append(input, element("label", { id: `${place}-${value}-label`, for: input.id, htmlFor: input.id, textContent: label }));
    }
  }

  function showThreshold() {
    const value = thresholds[view.stop].toFixed(2);
    $("threshold-value").textContent = value;
    $("threshold").setAttribute("aria-valuetext", value);
    $("reset").disabled = view.stop === home;
  }

  // At most once a frame of the display, however fast the slider moves.
  let waiting = false;
  function moveThreshold(stop) {
    view.stop = stop;
    showThreshold();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      figures = figuresAt(view.stop);
      showOverview();
      refreshCards();
      filterCards();
    });
  }

  function showControls() {
    const slider = $("threshold");
    slider.max = String(stops - 1);
    slider.value = String(view.stop);
    slider.addEventListener("input", () => moveThreshold(Number(slider.value)));
    // Cards change their places only when the slider has come to rest.
    slider.addEventListener("change", () => requestAnimationFrame(sortCards));
    $("reset").addEventListener("click", () => {
      slider.value = String(home);
      moveThreshold(home);
      requestAnimationFrame(sortCards);
    });
    segments("states", "state", STATES, (value) => {
      view.state = value;
      filterCards();
    });
    segments("overlays", "overlay", OVERLAYS, (value) => {
      view.overlay = value;
      for (const each of cards) if (each.frame.visible) paint(each.frame);
    });
    $("prompt").append(element("option", { value: "", textContent: "all prompts" }));
    for (const prompt of prompts) $("prompt").append(element("option", { value: prompt, textContent: prompt }));
    $("prompt-control").hidden = prompts.length < 2;
    $("prompt").addEventListener("change", () => {
      view.prompt = $("prompt").value;
      filterCards();
    });
    $("search").addEventListener("input", () => {
      view.text = $("search").value;
      filterCards();
    });
    for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
    const all = maps.prompt.length;
    $("shown").textContent =
      cards.length === all
        ? `All ${many(all, "map")}.`
        : `${number(cards.length)} of ${many(all, "map")} are shown here: suspicious ones first, the rest evenly spread. ` +
          "Figures and distributions above are of all.";
    $("cards").style.setProperty("--aspect", String(boxAspect));
    $("cards").classList.toggle("wide", boxAspect > 1.6);
    showThreshold();
  }

  showHead();
  showControls();
  showOverview();
  showGate();
  refreshCards();
  sortCards();
  filterCards();
})();
