/* Replays an episode. Frame t is the start of interval t; orders and candidates of t are decided then. */
"use strict";
(() => {
  const { root, css, inflate } = Page;
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data-0").textContent);
  const N = data.n, H = data.host_type.length, V = data.vm_vcpus.length;
  const ABSENT = 0, PENDING = 1, DEPARTED = 3, STARTING = 4;
  const OFF = 0, ON = 2, STANDBY = 4, FAILED = 7;
  const DRAINING = 1, MAINTENANCE = 2, SHORT = 4, FULL = 200;
  const dark = window.matchMedia("screen and (prefers-color-scheme: dark)");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const MODE = H <= 24 ? "boxes" : H <= 120 ? "small" : "cells";
  const F = {};
  let frame = 0, phase = 0, playing = false, picked = -1, layout = null, inks = null;

  /* ---- what is packed ---- */

  async function unpack(packed) {
    return new globalThis[packed.type](await inflate(packed.data));
  }

  /* Rows of a table that is sorted by its first column, by that column. */
  function byInterval(table, width) {
    const first = new Int32Array(N + 2);
    const n = table.length / width;
    for (let i = 0, t = 0; t <= N + 1; t += 1) {
      while (i < n && table[i * width] < t) i += 1;
      first[t] = i;
    }
    return (t) => Array.from({ length: first[t + 1] - first[t] },
      (_, i) => table.subarray((first[t] + i) * width, (first[t] + i + 1) * width));
  }

  const host = (t, v) => F.vm_host[t * V + v];
  const dest = (t, v) => F.vm_dest[t * V + v];
  const stateOf = (t, v) => F.vm_state[t * V + v] % 8;
  const migrates = (t, v) => F.vm_state[t * V + v] >= 8;
  const there = (t, v) => stateOf(t, v) !== ABSENT && stateOf(t, v) !== DEPARTED;
  const waits = (t, v) => there(t, v) && host(t, v) < 0;
  const power = (t, h) => F.host_power[t * H + h];
  const flag = (t, h, bit) => (F.host_flags[t * H + h] & bit) !== 0;
  const of = (series, t) => (data.series[series] && data.series[series][t]) || 0;
  const TERMS = Object.keys(data.series).filter((name) => name.startsWith("cost_") &&
    data.series[name].some((x) => x));
  const sums = {};
  for (const name of ["cost", "energy_kwh", "migrations", ...TERMS]) {
    sums[name] = new Float64Array(N + 1);
    for (let t = 0; t < N; t += 1) sums[name][t + 1] = sums[name][t] + of(name, t);
  }

  /* ---- words ---- */

  const number = (x, digits = 2) => (x === null || !Number.isFinite(x) ? "–"
    : x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  function clock(t) {
    const seconds = Math.round(t * data.interval_s), two = (x) => String(x).padStart(2, "0");
    const rest = seconds % 86400;
    const tail = data.interval_s % 60 ? `:${two(rest % 60)}` : "";
    return `day ${Math.floor(seconds / 86400) + 1}, ${two(Math.floor(rest / 3600))}:${two(Math.floor(rest / 60) % 60)}${tail}`;
  }
  const hostWord = (t, h) => {
    const words = [data.power_words[power(t, h)]];
    if (flag(t, h, MAINTENANCE)) words.push("maintenance");
    if (flag(t, h, DRAINING)) words.push("to go off");
    return words.join(", ");
  };
  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  /* ---- colours ---- */

  function readInks() {
    const rgb = (name) => [1, 3, 5].map((i) => parseInt(css(name).slice(i, i + 2), 16));
    const ramp = [rgb("idle"), rgb("half"), rgb("full")];
    const mixed = Array.from({ length: 101 }, (_, i) => {
      const x = i / 50, a = Math.min(1, Math.floor(x)), share = x - a;
      return ramp[a].map((c, k) => Math.round(c + (ramp[a + 1][k] - c) * share));
    });
    inks = { mixed, ramp: mixed.map((c) => `rgb(${c.join()})`),
      pens: mixed.map((c) => (c[0] * 0.3 + c[1] * 0.59 + c[2] * 0.11 > 140 ? "#10161d" : "#ffffff")) };
    for (const name of ["paper", "ink", "muted", "line", "grid", "box", "off", "switching", "over", "failed", "asleep",
      "accent", "arrow", "half"]) inks[name] = css(name);
    inks.terms = TERMS.map((_, i) => css(`p${i % 7}`));
  }
  const stateInk = (code) => (code === OFF ? "off" : code === STANDBY ? "asleep" : code === FAILED ? "failed" : "switching");
  const loadInk = (percent) => inks.ramp[Math.min(100, percent)];

  /* ---- where hosts and VMs are drawn ---- */

  const SIZES = { boxes: { wide: 172, gap: 12, cw: 24, ch: 17, head: 46, pad: 8 },
    small: { wide: 92, gap: 7, cw: 9, ch: 9, head: 22, pad: 4 } };

  function countMost() {
    let most = 1, queue = 0;
    const count = new Int32Array(H + 1);
    for (let t = 0; t <= N; t += 1) {
      count.fill(0);
      for (let v = 0; v < V; v += 1) if (there(t, v)) count[host(t, v) < 0 ? H : host(t, v)] += 1;
      for (let h = 0; h < H; h += 1) most = Math.max(most, count[h]);
      queue = Math.max(queue, count[H]);
    }
    return { most, queue };
  }
  let crowd = null;

  function layOut(width) {
    if (MODE === "cells") {
      const tall = Math.max(360, Math.min(620, width * 0.75));
      const size = Math.max(9, Math.min(34, Math.floor(Math.sqrt((width * tall) / H))));
      const columns = Math.max(1, Math.floor(width / size));
      const boxes = Array.from({ length: H }, (_, h) => ({ x: (h % columns) * size, y: Math.floor(h / columns) * size,
        w: size - 2, h: size - 2 }));
      const bottom = Math.ceil(H / columns) * size;
      return { boxes, size, columns, tray: { x: 0, y: bottom + 6, w: width, h: 26 }, height: bottom + (crowd.queue ? 34 : 0) };
    }
    const s = SIZES[MODE];
    const columns = Math.max(1, Math.min(H, Math.floor((width + s.gap) / (s.wide + s.gap)), MODE === "boxes" ? 6 : 12));
    const wide = (width - (columns - 1) * s.gap) / columns;
    const across = Math.max(1, Math.floor((wide - 2 * s.pad + 2) / (s.cw + 2)));
    const high = s.head + Math.ceil(crowd.most / across) * (s.ch + 2) + s.pad;
    const boxes = Array.from({ length: H }, (_, h) => ({ x: (h % columns) * (wide + s.gap),
      y: Math.floor(h / columns) * (high + s.gap), w: wide, h: high }));
    const bottom = Math.ceil(H / columns) * (high + s.gap);
    const inTray = Math.max(1, Math.floor((width - 2 * s.pad) / (s.cw + 2)));
    const rows = Math.min(4, Math.ceil(crowd.queue / inTray));
    const tray = { x: 0, y: bottom, w: width, h: 22 + rows * (s.ch + 2) + s.pad };
    return { boxes, across, inTray, tray, s, height: bottom + (crowd.queue ? tray.h : -s.gap) };
  }

  /* Middle of every VM at a frame; without one where it is not there. */
  const slots = new Map();
  function slotsOf(t) {
    if (slots.has(t)) return slots.get(t);
    const found = new Array(V).fill(null);
    const filled = new Int32Array(H + 1);
    for (let v = 0; v < V; v += 1) {
      if (!there(t, v)) continue;
      const h = host(t, v) < 0 ? H : host(t, v), k = filled[h];
      filled[h] += 1;
      if (MODE === "cells") {
        const box = h === H ? layout.tray : layout.boxes[h];
        found[v] = h === H ? [box.x + 110 + Math.min(k, 60) * 9, box.y + 13] : [box.x + box.w / 2, box.y + box.h / 2];
        continue;
      }
      const { s } = layout, box = h === H ? layout.tray : layout.boxes[h];
      const across = h === H ? layout.inTray : layout.across;
      found[v] = [box.x + s.pad + (k % across) * (s.cw + 2) + s.cw / 2,
        box.y + (h === H ? 22 : s.head) + Math.floor(k / across) * (s.ch + 2) + s.ch / 2];
    }
    if (slots.size > 8) slots.clear();
    slots.set(t, found);
    return found;
  }

  /* ---- drawing ---- */

  function pen(canvas, height) {
    const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    const to = canvas.getContext("2d");
    to.setTransform(ratio, 0, 0, ratio, 0, 0);
    to.clearRect(0, 0, width, height);
    to.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    to.textBaseline = "middle";
    return to;
  }
  const fontOf = (size, weight = 400) => `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
  function rounded(to, x, y, w, h, r) {
    to.beginPath();
    to.roundRect(x, y, w, h, r);
  }
  function fitted(to, text, width) {
    if (to.measureText(text).width <= width) return text;
    let n = text.length;
    while (n > 1 && to.measureText(`${text.slice(0, n)}…`).width > width) n -= 1;
    return `${text.slice(0, n)}…`;
  }

  function drawBox(to, t, h) {
    const box = layout.boxes[h], { s } = layout, code = power(t, h);
    const on = code === ON, short = flag(t, h, SHORT);
    rounded(to, box.x + 0.5, box.y + 0.5, box.w - 1, box.h - 1, MODE === "boxes" ? 8 : 5);
    to.fillStyle = on ? inks.box : inks[stateInk(code)];
    to.globalAlpha = on || code === OFF ? 1 : 0.55;
    to.fill();
    to.globalAlpha = 1;
    to.lineWidth = h === picked || short ? 2 : 1;
    to.strokeStyle = h === picked ? inks.accent : short ? inks.over : inks.line;
    to.stroke();
    const load = F.host_cpu[t * H + h], memory = F.host_mem[t * H + h];
    to.fillStyle = inks.ink;
    to.textAlign = "left";
    if (MODE === "small") {
      to.font = fontOf(10, 600);
      to.fillText(fitted(to, on ? `${h}` : `${h} ${hostWord(t, h)}`, box.w - 2 * s.pad), box.x + s.pad, box.y + 9);
      if (on) {
        bar(to, box.x + 28, box.y + 5, box.w - 32, 4, load);
        bar(to, box.x + 28, box.y + 11, box.w - 32, 4, memory);
      }
      return;
    }
    to.font = fontOf(12, 600);
    const name = `host ${h}`;
    to.fillText(name, box.x + s.pad, box.y + 13);
    const used = to.measureText(name).width + 8;
    to.font = fontOf(11);
    to.textAlign = "right";
    to.fillStyle = on && !flag(t, h, MAINTENANCE | DRAINING) ? inks.muted : inks.ink;
    const word = on && !flag(t, h, MAINTENANCE | DRAINING) ? data.host_types[data.host_type[h]] : hostWord(t, h);
    to.fillText(fitted(to, word, box.w - 2 * s.pad - used), box.x + box.w - s.pad, box.y + 13);
    if (!on) return;
    to.font = fontOf(9.5);
    for (const [k, label, value] of [[0, "CPU", load], [1, "mem", memory]]) {
      const y = box.y + 25 + 11 * k;
      to.textAlign = "left";
      to.fillStyle = inks.muted;
      to.fillText(label, box.x + s.pad, y + 3.5);
      bar(to, box.x + s.pad + 27, y, box.w - 2 * s.pad - 61, 7, value);
      to.textAlign = "right";
      to.fillStyle = value > 100 ? inks.over : inks.muted;
      to.fillText(`${value} %`, box.x + box.w - s.pad, y + 3.5);
    }
  }
  function bar(to, x, y, w, h, percent) {
    to.fillStyle = inks.grid;
    to.fillRect(x, y, w, h);
    to.fillStyle = percent > 100 ? inks.over : inks.half;
    to.fillRect(x, y, w * Math.min(1, percent / 100), h);
  }

  function drawCell(to, t, h) {
    const box = layout.boxes[h], code = power(t, h), percent = F.host_cpu[t * H + h];
    to.fillStyle = code === ON ? (flag(t, h, SHORT) ? inks.over : loadInk(percent)) : inks[stateInk(code)];
    to.fillRect(box.x, box.y, box.w, box.h);
    if (flag(t, h, MAINTENANCE | DRAINING)) {
      to.fillStyle = inks.switching;
      to.fillRect(box.x, box.y + box.h - 4, box.w, 4);
    }
    if (code === ON && layout.size >= 20 && layout.counts[h]) {
      to.fillStyle = inks.pens[Math.min(100, percent)];
      to.textAlign = "center";
      to.font = fontOf(Math.min(11, layout.size * 0.42));
      to.fillText(String(layout.counts[h]), box.x + box.w / 2, box.y + box.h / 2 + 0.5);
    }
    if (h === picked) {
      to.strokeStyle = inks.arrow;
      to.lineWidth = 2;
      to.strokeRect(box.x - 1, box.y - 1, box.w + 2, box.h + 2);
    }
  }

  function drawVm(to, t, v, x, y, alpha) {
    const load = Math.round((100 * F.vm_load[t * V + v]) / FULL), { s } = layout;
    to.globalAlpha = alpha;
    rounded(to, x - s.cw / 2, y - s.ch / 2, s.cw, s.ch, MODE === "boxes" ? 3 : 1.5);
    to.fillStyle = waits(t, v) ? inks.over : stateOf(t, v) === STARTING ? inks.switching : loadInk(load);
    to.fill();
    if (migrates(t, v)) {
      to.strokeStyle = inks.arrow;
      to.lineWidth = 2;
      to.stroke();
    }
    if (MODE === "boxes") {
      to.fillStyle = waits(t, v) ? "#ffffff" : stateOf(t, v) === STARTING ? "#10161d" : inks.pens[load];
      to.font = fontOf(V > 999 ? 8.5 : 10);
      to.textAlign = "center";
      to.fillText(String(v), x, y + 0.5);
    }
    to.globalAlpha = 1;
  }

  function arrow(to, x0, y0, x1, y1, alpha) {
    const bend = Math.min(40, Math.hypot(x1 - x0, y1 - y0) / 5);
    to.globalAlpha = alpha;
    to.strokeStyle = inks.arrow;
    to.lineWidth = MODE === "cells" ? 1.2 : 1.5;
    to.beginPath();
    to.moveTo(x0, y0);
    to.quadraticCurveTo((x0 + x1) / 2, (y0 + y1) / 2 - bend, x1, y1);
    to.stroke();
    to.beginPath();
    to.arc(x1, y1, 2.6, 0, 7);
    to.fillStyle = inks.arrow;
    to.fill();
    to.globalAlpha = 1;
  }

  function drawCluster() {
    const canvas = at("cluster");
    const to = pen(canvas, Math.max(40, layout.height));
    const t = frame, next = Math.min(N, t + 1);
    layout.counts = new Int32Array(H);
    for (let v = 0; v < V; v += 1) if (host(t, v) >= 0 && there(t, v)) layout.counts[host(t, v)] += 1;
    for (let h = 0; h < H; h += 1) (MODE === "cells" ? drawCell : drawBox)(to, t, h);
    if (crowd.queue) drawTray(to, t);
    const here = slotsOf(t), then = slotsOf(next);
    const eased = calm.matches ? 0 : phase * phase * (3 - 2 * phase);
    const moving = [];
    for (let v = 0; v < V; v += 1) {
      const a = here[v], b = then[v];
      const goes = a && b && host(t, v) !== host(next, v);
      if (MODE === "cells") {
        if (goes && eased > 0) moving.push([v, a[0] + (b[0] - a[0]) * eased, a[1] + (b[1] - a[1]) * eased]);
        continue;
      }
      if (a && b) {
        const [x, y] = [a[0] + (b[0] - a[0]) * eased, a[1] + (b[1] - a[1]) * eased];
        if (goes) moving.push([v, x, y]); else drawVm(to, t, v, x, y, 1);
      } else if (a) drawVm(to, t, v, a[0], a[1], 1 - eased);
      else if (b && eased > 0) drawVm(to, next, v, b[0], b[1], eased);
    }
    const ways = paths(t, here);
    const alpha = Math.min(0.9, 6 / Math.sqrt(ways.length || 1)); // many together must not hide the hosts
    for (const [, [x0, y0], [x1, y1]] of ways) arrow(to, x0, y0, x1, y1, alpha);
    if (F.vm_secondary && MODE !== "cells") drawSecondaries(to, t);
    for (const [v, x, y] of moving) {
      if (MODE !== "cells") { drawVm(to, t, v, x, y, 1); continue; }
      to.fillStyle = inks.arrow;
      to.beginPath();
      to.arc(x, y, 4, 0, 7);
      to.fill();
    }
  }

  /* Migrations under way, and those that are ordered now. */
  function paths(t, here) {
    const found = new Map();
    for (let v = 0; v < V; v += 1) if (migrates(t, v) && dest(t, v) >= 0) found.set(v, dest(t, v));
    for (const [, kind, v, h, code] of t < N ? ordersAt(t) : []) {
      if (!code && ["move", "place"].includes(data.kinds[kind])) found.set(v, h);
    }
    return [...found].filter(([v]) => here[v]).map(([v, h]) => {
      const box = layout.boxes[h];
      return [v, here[v], MODE === "cells" ? [box.x + box.w / 2, box.y + box.h / 2] : [box.x + box.w / 2, box.y + layout.s.head - 4]];
    });
  }

  function drawSecondaries(to, t) {
    const filled = new Int32Array(H), { s } = layout;
    for (let v = 0; v < V; v += 1) {
      const h = F.vm_secondary[t * V + v];
      if (h < 0 || !there(t, v)) continue;
      const k = layout.counts[h] + filled[h], box = layout.boxes[h];
      filled[h] += 1;
      const x = box.x + s.pad + (k % layout.across) * (s.cw + 2), y = box.y + s.head + Math.floor(k / layout.across) * (s.ch + 2);
      if (y + s.ch > box.y + box.h) continue;
      to.setLineDash([3, 2]);
      to.strokeStyle = inks.muted;
      to.lineWidth = 1;
      to.strokeRect(x + 0.5, y + 0.5, s.cw - 1, s.ch - 1);
      to.setLineDash([]);
      if (MODE !== "boxes") continue;
      to.fillStyle = inks.muted;
      to.font = fontOf(10);
      to.textAlign = "center";
      to.fillText(String(v), x + s.cw / 2, y + s.ch / 2 + 0.5);
    }
  }

  function drawTray(to, t) {
    const box = layout.tray;
    let n = 0;
    for (let v = 0; v < V; v += 1) n += waits(t, v);
    to.textAlign = "left";
    to.font = fontOf(12, n ? 600 : 400);
    to.fillStyle = n ? inks.over : inks.muted;
    to.fillText(n ? `waiting: ${n}` : "no VM waits for a host", box.x, box.y + 12);
    if (MODE === "cells") for (let k = 0; k < Math.min(n, 61); k += 1) to.fillRect(box.x + 106 + k * 9, box.y + 9, 7, 7);
  }

  /* ---- the whole episode ---- */

  const stills = {};
  const GUTTER = 46;
  function still(name, canvas, height, draw) {
    const to = pen(canvas, height), ratio = window.devicePixelRatio || 1;
    if (!stills[name]) {
      draw(to, canvas.clientWidth, height);
      const kept = document.createElement("canvas");
      Object.assign(kept, { width: canvas.width, height: canvas.height });
      kept.getContext("2d").drawImage(canvas, 0, 0);
      stills[name] = kept;
    } else to.drawImage(stills[name], 0, 0, canvas.width / ratio, canvas.height / ratio);
    const x = GUTTER + ((canvas.clientWidth - GUTTER) * frame) / Math.max(1, N);
    to.fillStyle = inks.arrow;
    to.fillRect(Math.min(x, canvas.clientWidth - 2), 0, 2, height);
  }

  function drawCurve(to, width, height) {
    const wide = width - GUTTER, bottom = height - 20, columns = Math.max(1, Math.min(N, Math.floor(wide)));
    const means = TERMS.map((name) => Float64Array.from({ length: columns }, (_, i) => {
      const [a, b] = [Math.floor((i * N) / columns), Math.max(Math.floor((i * N) / columns) + 1, Math.floor(((i + 1) * N) / columns))];
      return (sums[name][b] - sums[name][a]) / (b - a);
    }));
    const totals = Float64Array.from({ length: columns }, (_, i) => means.reduce((sum, mean) => sum + mean[i], 0));
    const sorted = [...totals].sort((a, b) => a - b);
    /* A few dear intervals must not press all others to the bottom: they are cut off, and say so. */
    const top = Math.min(sorted[columns - 1], 4 * sorted[Math.floor(columns * 0.9)] || sorted[columns - 1]) || 1;
    to.font = fontOf(11);
    to.textAlign = "right";
    to.fillStyle = inks.muted;
    to.fillText(Number(top.toPrecision(2)), GUTTER - 6, 8);
    to.fillText("0", GUTTER - 6, bottom - 5);
    to.fillStyle = inks.box;
    to.fillRect(GUTTER, 0, wide, bottom);
    for (let i = 0; i < columns; i += 1) {
      let y = bottom;
      for (let k = 0; k < TERMS.length; k += 1) {
        const h = Math.min(y, (means[k][i] / top) * (bottom - 4));
        to.fillStyle = inks.terms[k];
        to.fillRect(GUTTER + (i * wide) / columns, y - h, Math.ceil(wide / columns), h);
        y -= h;
      }
      if (totals[i] > top * 1.001) {
        to.fillStyle = inks.paper;
        to.fillRect(GUTTER + (i * wide) / columns, 5, Math.ceil(wide / columns), 2);
      }
    }
    hours(to, width, bottom);
  }

  function hours(to, width, y) {
    const span = (N * data.interval_s) / 3600;
    const step = [0.25, 0.5, 1, 2, 3, 6, 12, 24, 48].find((x) => span / x <= (width < 600 ? 6 : 13)) || 168;
    to.font = fontOf(11);
    to.fillStyle = inks.muted;
    for (let x = 0; x <= span + 1e-9; x += step) {
      const px = GUTTER + ((width - GUTTER) * x) / span;
      to.textAlign = x === 0 ? "left" : px > width - 16 ? "right" : "center";
      to.fillText(`${x} h`, px, y + 11);
    }
  }

  function heatHeight() { return Math.max(120, Math.min(360, H * 15)); }
  /* Where there are many hosts, those that are on for longest come first. */
  function hostsByUse() {
    const order = Array.from({ length: H }, (_, h) => h);
    if (MODE !== "cells") return order;
    const used = new Int32Array(H);
    for (let i = 0; i < (N + 1) * H; i += 1) used[i % H] += F.host_power[i] === ON;
    return order.sort((a, b) => used[b] - used[a] || a - b);
  }
  function drawHeat(to, width, height) {
    const rows = hostsByUse();
    const rgb = (name) => [1, 3, 5].map((i) => parseInt(inks[name].slice(i, i + 2), 16));
    const of = Object.fromEntries(["off", "asleep", "failed", "switching", "over"].map((name) => [name, rgb(name)]));
    const image = new ImageData(Math.max(1, N), H);
    for (let t = 0; t < N; t += 1) {
      for (let row = 0; row < H; row += 1) {
        const h = rows[row], code = power(t, h);
        const c = code !== ON ? of[stateInk(code)] : flag(t + 1, h, SHORT) ? of.over : inks.mixed[Math.min(100, F.host_cpu[t * H + h])];
        image.data.set([...c, 255], 4 * (row * image.width + t));
      }
    }
    const small = document.createElement("canvas");
    Object.assign(small, { width: image.width, height: H });
    small.getContext("2d").putImageData(image, 0, 0);
    to.imageSmoothingEnabled = H > height;
    to.drawImage(small, GUTTER, 0, width - GUTTER, height);
    to.font = fontOf(11);
    to.textAlign = "right";
    to.fillStyle = inks.muted;
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((x) => (x * height) / H >= 14) || 10000;
    for (let h = 0; h < H; h += every) {
      if (h) to.fillText(String(h), GUTTER - 6, ((h + 0.5) * height) / H);
      else to.fillText(MODE === "cells" ? "hosts" : "host 0", GUTTER - 6, Math.max(7, (0.5 * height) / H));
    }
  }

  /* ---- what is said ---- */

  function list(id, title, lines, none) {
    const place = at(id);
    place.replaceChildren();
    if (!lines.length && !none) return;
    place.append(element("h4", title));
    if (!lines.length) { place.append(element("p", none, "none")); return; }
    const shown = element("ul");
    for (const [text, kind] of lines.slice(0, 200)) shown.append(element("li", text, kind));
    if (lines.length > 200) shown.append(element("li", `… and ${lines.length - 200} more`, "none"));
    place.append(shown);
  }

  const order = ([, kind, v, h, code], t) => {
    const name = data.kinds[kind].replaceAll("_", " ");
    const text = v < 0 ? `${name}: host ${h}`
      : `${name}: VM ${v}${host(t, v) >= 0 ? `, host ${host(t, v)}` : ""} → host ${h}`;
    return code ? [`${text} – refused: ${data.reasons[code]}`, "refused"] : [text];
  };

  function events(t) {
    const found = data.notes.filter(([k]) => k === t).map(([, text]) => [text]);
    if (t === 0) return found;
    for (let h = 0; h < H; h += 1) {
      const [a, b] = [power(t - 1, h), power(t, h)];
      if (a !== b) found.push([`host ${h}: ${data.power_words[a]} → ${data.power_words[b]}`, b === FAILED ? "refused" : ""]);
    }
    for (let v = 0; v < V; v += 1) {
      const [a, b] = [host(t - 1, v), host(t, v)];
      if (!there(t - 1, v) && there(t, v)) found.push([`VM ${v} arrived${b >= 0 ? ` on host ${b}` : ", waits"}`]);
      else if (there(t - 1, v) && !there(t, v)) found.push([`VM ${v} departed`]);
      else if (a !== b && there(t, v)) {
        if (a >= 0 && b >= 0) found.push([`VM ${v} moved: host ${a} → host ${b}`]);
        else found.push([b < 0 ? `VM ${v} lost its host ${a}` : `VM ${v} placed on host ${b}`, b < 0 ? "refused" : ""]);
      } else if (stateOf(t - 1, v) === STARTING && stateOf(t, v) !== STARTING && there(t, v)) found.push([`VM ${v} runs again`]);
    }
    return found;
  }

  const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  function offerText([, , slot, h, moved, n]) {
    const name = data.slots[slot];
    const parts = [];
    if (moved) parts.push(plural(moved, "move"));
    if (n > Math.max(moved, 1)) parts.push(plural(n - moved, moved ? "other order" : "order"));
    return `${name}${h >= 0 ? ` host ${h}` : ""}${parts.length ? ` (${parts.join(", ")})` : ""}`;
  }

  function showOffers(t) {
    const place = at("offers");
    place.replaceChildren();
    if (!data.measure) return;
    const rows = t < N ? offersAt(t) : [];
    const byRule = data.measure === "rule";
    place.append(element("h4", byRule ? "Candidates; a rule or a search chooses" : `Candidates, by ${data.measure}`));
    if (!rows.length) { place.append(element("p", "none", "none")); return; }
    const shown = element("ul");
    Object.assign(shown, { tabIndex: 0, ariaLabel: "Candidates" });
    let choice = -1, low = 0, high = 0;
    const several = rows[rows.length - 1][1] > 0;
    for (const row of rows) {
      if (row[1] !== choice) {
        choice = row[1];
        const mine = rows.filter((r) => r[1] === choice).map((r) => r.value).filter(Number.isFinite);
        [low, high] = byRule || data.measure === "probability" ? [0, 1] : [Math.min(...mine), Math.max(...mine)];
        if (several) shown.append(element("li", `choice ${choice + 1}`, "none"));
      }
      const line = element("li", undefined, row[6] ? "offer taken" : "offer");
      line.append(element("span", `${row[6] ? "✓ " : ""}${offerText(row)}`));
      const track = element("span", undefined, "bar"), fill = element("i");
      const share = Number.isFinite(row.value) ? (high > low ? (row.value - low) / (high - low) : 1) : 0;
      fill.style.width = `${100 * share}%`;
      track.append(fill);
      line.append(track, element("span", byRule ? "" : Number.isFinite(row.value)
        ? (data.measure === "probability" ? `${number(100 * row.value, 1)} %` : Number(row.value.toPrecision(4))) : "–", "number"));
      shown.append(line);
    }
    place.append(shown);
  }

  function showPicked() {
    const place = at("picked");
    place.replaceChildren();
    if (picked < 0) return;
    const lines = hostText(frame, picked).split("\n");
    place.append(element("h4", lines[0]), element("p", lines.slice(1).join(" · ")));
    const mine = [];
    for (let v = 0; v < V; v += 1) if (there(frame, v) && host(frame, v) === picked) mine.push(v);
    const shown = element("ul");
    for (const v of mine) shown.append(element("li", vmText(frame, v).replaceAll("\n", " · ")));
    if (mine.length) place.append(shown);
  }

  const gib = (mib) => `${number(mib / 1024, 1)} GiB`;
  function hostText(t, h) {
    const n = layout.counts ? layout.counts[h] : 0;
    return `host ${h} (${data.host_types[data.host_type[h]]})\n${hostWord(t, h)}${flag(t, h, SHORT) ? ", was short of CPU" : ""}\n`
      + `CPU ${F.host_cpu[t * H + h]} % of ${number(data.host_cpu_mhz[h] / 1000, 1)} GHz\n`
      + `memory ${F.host_mem[t * H + h]} % of ${gib(data.host_mem_mib[h])}\n${plural(n, "VM")}`;
  }
  function vmText(t, v) {
    const words = [`VM ${v}: ${plural(data.vm_vcpus[v], "vCPU")}, ${gib(data.vm_mem_mib[v])}`,
      `busy ${Math.round((100 * F.vm_load[t * V + v]) / FULL)} %, ${data.classes[data.vm_class[v]].replace("_", " ")}`];
    if (migrates(t, v)) words.push(`migrates to host ${dest(t, v)}`);
    if (stateOf(t, v) === PENDING) words.push("waits for a host");
    if (stateOf(t, v) === STARTING) words.push("starts again");
    return words.join("\n");
  }

  function showTiles(t) {
    const last = Math.max(0, t - 1), set = (id, text, note) => {
      at(id).textContent = text;
      at(`${id}-note`).textContent = note || "";
    };
    set("cost", number(sums.cost[t], 2), t ? `+${Number(of("cost", last).toPrecision(3))} last interval` : "");
    set("energy", number(sums.energy_kwh[t], 2), t ? `${number(of("power_w", last), 0)} W` : "");
    set("unserved", t ? `${number(100 * of("unserved_weighted", last), 2)} %` : "–", "last interval");
    let on = 0, n = 0, under = 0;
    for (let h = 0; h < H; h += 1) on += power(t, h) === ON;
    for (let v = 0; v < V; v += 1) { n += waits(t, v); under += migrates(t, v); }
    set("on", `${on} / ${H}`);
    set("moves", number(sums.migrations[t], 0), under ? `${under} under way` : "");
    set("waiting", String(n));
  }

  function showBill(t) {
    const table = at("bill"), body = element("tbody"), head = element("thead"), top = element("tr");
    const heading = (text, scope) => Object.assign(element("th", text), { scope });
    for (const text of ["term", "so far", "last interval", "in all"]) top.append(heading(text, "col"));
    head.append(top);
    for (const name of [...TERMS, "cost"]) {
      const line = element("tr");
      line.append(heading(name === "cost" ? "together" : name.slice(5), "row"));
      for (const x of [sums[name][t], t ? of(name, t - 1) : 0, sums[name][N]]) line.append(element("td", Number(x.toPrecision(5)).toLocaleString("en", { maximumFractionDigits: 5 })));
      body.append(line);
    }
    table.replaceChildren(head, body);
  }

  function showText() {
    const t = frame;
    at("when").textContent = `${clock(t)} · interval ${t} of ${N}`;
    at("slider").value = String(t);
    at("slider").setAttribute("aria-valuetext", clock(t));
    showTiles(t);
    showPicked();
    list("orders", t < N ? "Orders now" : "Orders", t < N ? ordersAt(t).map((row) => order(row, t)) : [], t < N ? "none" : "the end");
    showOffers(t);
    list("events", "Since the interval before", events(t), "nothing");
    showBill(t);
  }

  function drawTime() {
    still("curve", at("curve"), 150, drawCurve);
    still("heat", at("heat"), heatHeight(), drawHeat);
  }

  let saidAt = -1e9;
  function show(now) {
    drawCluster();
    drawTime();
    if (!playing || now - saidAt > 150) { showText(); saidAt = now; }
    root.dataset.frame = String(frame);
  }

  /* ---- playing ---- */

  function go(t) {
    frame = Math.max(0, Math.min(N, Math.round(t)));
    phase = 0;
    saidAt = -1e9;
    show(performance.now());
    history.replaceState(null, "", `#${frame}`);
  }
  let before = 0;
  function run(now) {
    if (!playing) return;
    phase += (Math.min(200, now - before) / 1000) * Number(at("speed").value);
    before = now;
    const steps = Math.floor(phase);
    phase -= steps;
    frame = Math.min(N, frame + steps);
    if (frame >= N) { toggle(false); return; }
    show(now);
    requestAnimationFrame(run);
  }
  function toggle(wanted) {
    playing = wanted;
    at("play").textContent = playing ? "❚❚ pause" : "▶ play";
    at("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    if (!playing) { go(frame); return; }
    if (frame >= N) frame = 0;
    before = performance.now();
    requestAnimationFrame(run);
  }

  function bind() {
    at("slider").max = String(N);
    at("slider").addEventListener("input", (event) => { if (playing) toggle(false); go(Number(event.target.value)); });
    at("play").addEventListener("click", () => toggle(!playing));
    at("back").addEventListener("click", () => { toggle(false); go(frame - 1); });
    at("on-one").addEventListener("click", () => { toggle(false); go(frame + 1); });
    document.addEventListener("keydown", (event) => {
      if (/^(INPUT|SELECT|BUTTON)$/.test(event.target.tagName)) return;
      if (event.key === " ") { event.preventDefault(); toggle(!playing); }
      if (event.key === "ArrowLeft") go(frame - 1);
      if (event.key === "ArrowRight") go(frame + 1);
    });
    for (const id of ["curve", "heat"]) {
      const seek = (event) => {
        const { left, width } = at(id).getBoundingClientRect();
        if (playing) toggle(false);
        go(((event.clientX - left - GUTTER) / (width - GUTTER)) * N);
      };
      at(id).addEventListener("pointerdown", seek);
      at(id).addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
    }
    const canvas = at("cluster"), tip = at("tip");
    const under = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - left, event.clientY - top];
      const h = layout.boxes.findIndex((box) => x >= box.x && x < box.x + box.w && y >= box.y && y < box.y + box.h);
      const near = MODE === "cells" ? -1 : slotsOf(frame).findIndex((slot) => slot
        && Math.abs(x - slot[0]) <= layout.s.cw / 2 && Math.abs(y - slot[1]) <= layout.s.ch / 2);
      return { x, y, h, near };
    };
    canvas.addEventListener("pointermove", (event) => {
      const { x, y, h, near } = under(event);
      tip.hidden = near < 0 && h < 0;
      if (tip.hidden) return;
      tip.textContent = near >= 0 ? vmText(frame, near) : hostText(frame, h);
      tip.style.left = `${Math.max(0, Math.min(x + 14, canvas.clientWidth - tip.offsetWidth))}px`;
      tip.style.top = `${y + 16}px`;
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("click", (event) => {
      const { h } = under(event);
      picked = h === picked ? -1 : h;
      go(frame);
    });
    window.addEventListener("hashchange", () => go(Number(location.hash.slice(1)) || 0));
    let timer = 0;
    window.addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(() => { fit(); Page.ready(); }, 150); });
    dark.addEventListener("change", fit);
  }

  function fit() {
    readInks();
    slots.clear();
    for (const name of Object.keys(stills)) delete stills[name];
    layout = layOut(at("cluster").clientWidth);
    at("terms-key").replaceChildren(...TERMS.map((name, i) => {
      const entry = element("span"), cell = element("i", undefined, "cell");
      cell.style.background = inks.terms[i];
      entry.append(cell, name.slice(5));
      return entry;
    }));
    go(frame);
  }

  let ordersAt = null, offersAt = null;
  async function begin() {
    for (const [name, packed] of Object.entries(data.frames)) F[name] = await unpack(packed);
    ordersAt = byInterval(await unpack(data.orders), 5);
    const values = await unpack(data.values), found = byInterval(await unpack(data.offers), 7);
    const counts = Int32Array.from({ length: N + 2 });
    for (let t = 0; t <= N; t += 1) counts[t + 1] = counts[t] + found(t).length;
    offersAt = (t) => found(t).map((row, i) => Object.assign([...row], { value: values[counts[t] + i] }));
    crowd = countMost();
    bind();
    frame = Math.max(0, Math.min(N, Number(location.hash.slice(1)) || 0));
    fit();
    root.dataset.hosts = String(Array.from({ length: V }, (_, v) => host(N, v)).reduce((a, b) => a + b, 0));
    root.dataset.cost = String(sums.cost[N]);
    Page.ready();
  }
  begin();
})();
