/* Draws the figures of the chosen group, in the colours of the theme; everything it needs is in the page. */
"use strict";
(() => {
  const { root, note, css, inflate } = Page;
  const dark = window.matchMedia("screen and (prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const groups = new Map();
  const CONFIG = { responsive: true, displaylogo: false, plotlyServerURL: "", scrollZoom: false,
    displayModeBar: "hover", modeBarButtons: [["resetScale2d"]] };

  /* ---- theme ---- */

  function themed(layout) {
    const out = structuredClone(layout);
    const small = narrow.matches;
    Object.assign(out, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: small ? 11 : 12.5, color: css("ink") },
      hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink"), size: 13 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("muted"), activecolor: css("accent") },
      dragmode: small ? false : "zoom" });
    for (const name of ["xaxis", "yaxis"]) {
      const axis = out[name] || (out[name] = {});
      axis.gridcolor = css("grid");
      axis.linecolor = css("line");
      axis.tickcolor = css("line");
      if (axis.title) axis.title.font = { color: css("muted"), size: small ? 11 : 12.5 };
    }
    for (const text of out.annotations || []) text.bgcolor = `${css("paper")}c8`; // over lines
    if (small && out.margin) out.margin.l = Math.min(out.margin.l, 44);
    return out;
  }

  function painted(trace) {
    const out = { ...trace };
    const ink = trace.meta && trace.meta.ink ? css(trace.meta.ink) : null;
    if (!ink) return out;
    if (trace.type === "bar") out.marker = { ...trace.marker, color: ink };
    if (trace.type === "heatmap") out.colorscale = [[0, css("card")], [0.001, css("idle")], [0.5, css("half")], [1, css("full")]];
    if (/lines/.test(trace.mode)) out.line = { ...trace.line, color: ink };
    if (trace.fill) out.fillcolor = `${ink}33`;
    if (trace.mode === "markers") {
      out.marker = { ...trace.marker, color: ink, line: { ...trace.marker.line, color: css("paper") } };
      if (String(trace.marker.symbol).endsWith("-open")) out.marker.line.color = ink;
    }
    const faint = trace.meta.priority >= 100 ? "40" : "b0"; // bars of policies on the front stand out
    for (const bar of ["error_x", "error_y"]) {
      if (trace[bar]) out[bar] = { ...trace[bar], color: trace.type === "bar" ? css("ink") : ink + faint };
    }
    return out;
  }

  /* ---- labels of the scatter that do not collide ---- */

  const overlap = (a, b) => Math.max(0, Math.min(a.x1, b.x1) - Math.max(a.x0, b.x0)) *
    Math.max(0, Math.min(a.y1, b.y1) - Math.max(a.y0, b.y0));

  function textWidth(text, size) {
    const pen = (textWidth.pen ||= document.createElement("canvas").getContext("2d"));
    pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&")).width;
  }

  function candidates() {
    const out = [];
    for (const far of narrow.matches ? [16, 24, 34] : [16, 26, 40, 58, 80, 106]) {
      for (let turn = 0; turn < 16; turn += 1) {
        const angle = (turn * Math.PI) / 8;
        out.push([far * Math.cos(angle) * 1.25, far * Math.sin(angle), far]);
      }
    }
    return out;
  }

  function placeLabels(plot) {
    const full = plot._fullLayout;
    const size = narrow.matches ? 10.5 : 12;
    const width = full.xaxis._length, height = full.yaxis._length;
    const points = [];
    for (const trace of plot.data) {
      if (trace.mode !== "markers") continue;
      const x = full.xaxis.d2p(trace.x[0]), y = full.yaxis.d2p(trace.y[0]);
      if (x < 0 || y < 0 || x > width || y > height) continue;
      points.push({ x, y, trace, box: { x0: x - 9, x1: x + 9, y0: y - 9, y1: y + 9 } });
    }
    points.sort((a, b) => a.trace.meta.priority - b.trace.meta.priority);
    const taken = [], out = [];
    for (const point of points) {
      const w = textWidth(point.trace.meta.label, size) + 6, h = size + 5;
      let best = null;
      for (const [dx, dy, far] of candidates()) {
        const cx = point.x + dx + (Math.sign(Math.round(dx)) * w) / 2, cy = point.y + dy;
        const box = { x0: cx - w / 2, x1: cx + w / 2, y0: cy - h / 2, y1: cy + h / 2 };
        if (box.x0 < 0 || box.x1 > width + 8 || box.y0 < -6 || box.y1 > height) continue;
        if (taken.some((other) => overlap(box, other) > 0)) continue;
        if (points.some((other) => overlap(box, other.box) > 0)) continue;
        if (!best || far < best.far) best = { far, cx, cy, box };
        if (best.far === 16) break;
      }
      if (!best) continue;
      taken.push(best.box);
      out.push({ x: full.xaxis.type === "log" ? Math.log10(point.trace.x[0]) : point.trace.x[0],
        y: full.yaxis.type === "log" ? Math.log10(point.trace.y[0]) : point.trace.y[0],
        text: point.trace.meta.label, ax: best.cx - point.x, ay: best.cy - point.y, showarrow: true,
        arrowhead: 0, arrowwidth: 1, standoff: 7, arrowcolor: best.far > 16 ? css("muted") : "rgba(0,0,0,0)",
        font: { size, color: css("ink") }, bgcolor: `${css("paper")}c8`, borderpad: 1 });
    }
    return Plotly.relayout(plot, { annotations: out });
  }

  /* ---- drawing ---- */

  async function draw(holder, group) {
    const figure = group.data.figures[holder.dataset.figure];
    const shown = policiesShown(group);
    const data = figure.data.map(painted);
    if (holder.classList.contains("lines")) {
      for (const trace of data) trace.visible = shown.has(trace.meta.policy);
    }
    const layout = themed(figure.layout);
    if (holder.classList.contains("bars")) layout.margin.l = 8;
    const wide = holder.parentElement.querySelector(".widen");
    if (wide && wide.checked) delete layout.xaxis.range;
    await Plotly.react(holder, data, layout, CONFIG);
    if (holder.classList.contains("tall")) {
      await placeLabels(holder);
      if (!holder.dataset.bound) holder.on("plotly_relayout", (change) => {
        if (!("annotations" in change)) placeLabels(holder);
      });
    }
    if (holder.classList.contains("lines") && !holder.dataset.bound) {
      holder.on("plotly_hover", (event) => highlight(group, event.points[0].data.meta.policy));
      holder.on("plotly_unhover", () => highlight(group, null));
    }
    holder.dataset.bound = "1";
    offerPicture(holder);
  }

  /* A button below a figure that saves it as it is seen, on paper of its own. */
  function offerPicture(holder) {
    if (holder.nextElementSibling && holder.nextElementSibling.classList.contains("png")) return;
    const button = document.createElement("button");
    const named = holder.closest("figure") || holder.closest(".block");
    const title = named.querySelector("figcaption, h3").firstChild.textContent.trim();
    Object.assign(button, { type: "button", className: "png", textContent: "PNG" });
    button.setAttribute("aria-label", `PNG of the figure ${title}`);
    button.addEventListener("click", async () => {
      const layout = { ...holder.layout, paper_bgcolor: css("paper") };
      const size = { width: holder.clientWidth, height: holder.clientHeight, scale: 2 };
      save(await Plotly.toImage({ data: holder.data, layout }, { format: "png", ...size }), `${title}.png`);
    });
    holder.after(button);
  }

  const visible = (element) => element.offsetParent !== null;

  async function drawGroup(group) {
    for (const holder of group.section.querySelectorAll("[data-figure]")) {
      if (visible(holder)) await draw(holder, group);
    }
    for (const panel of group.section.querySelectorAll(".heatmap")) await drawHeat(panel, group);
  }

  /* ---- lines: which are shown, which is brought forward ---- */

  const boxes = (group) => [...group.section.querySelectorAll(".chip input")];
  const policiesShown = (group) => new Set(boxes(group).filter((b) => b.checked).map((b) => b.dataset.policy));

  async function showLines(group) {
    const shown = policiesShown(group);
    for (const plot of group.section.querySelectorAll(".plot.lines")) {
      await Plotly.restyle(plot, { visible: plot.data.map((trace) => shown.has(trace.meta.policy)) });
    }
  }

  function highlight(group, policy) {
    for (const plot of group.section.querySelectorAll(".plot.lines")) {
      for (const line of plot.querySelectorAll(".scatterlayer .trace")) {
        const trace = line.__data__ && line.__data__[0] && line.__data__[0].trace;
        line.classList.toggle("dim", policy !== null && Boolean(trace) && trace.meta.policy !== policy);
      }
    }
  }

  function bindChips(group) {
    for (const box of boxes(group)) {
      const chip = box.closest(".chip");
      box.addEventListener("change", () => showLines(group));
      for (const [start, stop] of [["mouseenter", "mouseleave"], ["focusin", "focusout"]]) {
        chip.addEventListener(start, () => box.checked && highlight(group, box.dataset.policy));
        chip.addEventListener(stop, () => highlight(group, null));
      }
    }
    for (const button of group.section.querySelectorAll("[data-show]")) {
      button.addEventListener("click", () => {
        for (const box of boxes(group)) {
          box.checked = button.dataset.show === "all" ||
            (button.dataset.show === "default" && "default" in box.dataset);
        }
        showLines(group);
      });
    }
  }

  /* ---- heat map ---- */

  const OFF = 255, SWITCHING = 254, OVER = 253, FAILED = 252;
  // What a cell says of each table; the last is written as full at a quarter of the work.
  const LAYERS = {
    heat: [(code) => `${code / 2} % busy`, "short of CPU"],
    memory: [(code) => `${code / 2} % of the memory`, "swapping"],
    numa: [(code) => `${(code / 8).toFixed(1)} % of the work lost to remote memory`, ""],
  };

  async function decode(table, layer) {
    const known = (table.cells ||= {});
    known[layer] ||= new Uint8Array(await inflate(table.data[layer]));
    return known[layer];
  }

  function heatScale() {
    const at = (z) => (z + 40) / 170;
    return [[0, css("failed")], [at(-34), css("failed")], [at(-34), css("off")], [at(-20), css("off")], [at(-20), css("switching")], [at(-1), css("switching")],
      [at(-1), css("idle")], [at(0), css("idle")], [at(50), css("half")], [at(100), css("full")],
      [at(101), css("full")], [at(101), css("over")], [1, css("over")]];
  }

  const height = (code) => (code === FAILED ? -38 : code === OFF ? -27 : code === SWITCHING ? -10
    : code === OVER ? 115 : code / 2);
  const wording = (code, [share, over]) => (code === OFF ? "off" : code === SWITCHING ? "booting or shutting down"
    : code === FAILED ? "failed" : code === OVER ? over : share(code));

  async function drawHeat(panel, group) {
    const holder = panel.querySelector("[data-heat]");
    if (!visible(holder)) return;
    const policy = panel.querySelector("select").value;
    const table = group.data.heats.find((entry) => entry.policy === policy);
    if (!table) return;
    const chosen = group.section.querySelector(".layer");
    const layer = chosen && chosen.value in table.data ? chosen.value : "heat";
    const cells = await decode(table, layer);
    const z = [], text = [];
    const words = Array.from({ length: 256 }, (_, code) => wording(code, LAYERS[layer]));
    for (let row = 0; row < table.rows; row += 1) {
      const line = cells.subarray(row * table.columns, (row + 1) * table.columns);
      const type = table.types[table.type_of[row]];
      const host = `host ${table.hosts[row]}${table.per_row > 1 ? " and neighbours" : ""}${type ? ` (${type})` : ""}`;
      z.push(Array.from(line, height));
      text.push(Array.from(line, (code, column) => `${host}<br>${(column * table.column_h).toFixed(1)} h: ${words[code]}`));
    }
    const figure = group.data.figures.heat;
    const layout = themed(figure.layout);
    const hours = table.columns * table.column_h;
    layout.xaxis.dtick = [1, 2, 4, 6, 12, 24, 48].find((step) => hours / step <= 8) || 168;
    layout.xaxis.range = [0, hours];
    layout.margin.l = 8;
    const data = [{ ...figure.data[0], z, text, x0: table.column_h / 2, dx: table.column_h,
      colorscale: heatScale() }];
    await Plotly.react(holder, data, layout, CONFIG);
    const merged = table.per_row > 1 ? `, ${table.per_row} hosts per row` : "";
    const drawn = table.n_hosts - table.n_left_out;
    const hosts = table.n_left_out ? `${drawn} of ${table.n_hosts} hosts, the others nearly always off` : `${drawn} hosts`;
    panel.querySelector(".heat-note").textContent = `seed ${table.seed}, ${hosts}${merged}`;
    offerPicture(holder);
    holder.setAttribute("aria-label", `Heat map of ${table.n_hosts} hosts over time under ${policy}`);
  }

  /* ---- table ---- */

  function sortTable(table, column, head) {
    const body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    const value = (row) => (column === 0 ? row.querySelector(".name").textContent : row.cells[column].dataset.value);
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (column > 0 && (x === "" || y === "")) return (x === "") - (y === "");
      const order = column === 0 ? x.localeCompare(y) : Number(x) - Number(y);
      return down ? -order : order;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  }

  const textOf = (cell) => [...cell.childNodes].map((node) => node.textContent.trim()).filter(Boolean).join(" ");

  /* The cells of a table that are seen, in the order that is seen. */
  function cellsOf(table) {
    const seen = [...table.tHead.rows[0].cells].map((cell) => cell.offsetParent !== null);
    return [...table.rows].map((row) => [...row.cells].filter((_, i) => seen[i]));
  }

  const plainOf = (cell) => (cell.querySelector(".name") ? cell.querySelector(".name").textContent
    : textOf(cell.querySelector("button") || cell));

  /* What a table shows as CSV or LaTeX. */
  function written(table, kind) {
    const lines = cellsOf(table).map((row) => row.map(plainOf));
    if (kind === "csv") {
      return lines.map((line) => line.map((text) => `"${text.replace(/"/g, '""')}"`).join(",")).join("\r\n");
    }
    const plain = (text) => text.replace(/\\/g, "\\textbackslash{}").replace(/[&%$#_{}]/g, "\\$&")
      .replace(/[~^]/g, "\\$&{}").replace(/±/g, "$\\pm$").replace(/×/g, "$\\times$").replace(/−/g, "$-$").replace(/Δ/g, "$\\Delta$");
    const rows = lines.map((line) => `${line.map(plain).join(" & ")} \\\\`);
    rows.splice(1, 0, "\\midrule");
    return `\\begin{tabular}{l${"r".repeat(lines[0].length - 1)}}\n\\toprule\n${rows.join("\n")}\n\\bottomrule\n\\end{tabular}\n`;
  }

  /* What a table shows as a picture, with its marks of what is best. */
  function pictured(table) {
    const cells = cellsOf(table), pad = 10, line = 28, size = 14;
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    const font = (row, cell) => `${row === 0 || cell.tagName === "TH" || cell.classList.contains("best") ? 600 : 400} ${size}px ${getComputedStyle(document.body).fontFamily}`;
    const widths = cells[0].map((_, i) => Math.max(...cells.map((row, r) => {
      pen.font = font(r, row[i]);
      return pen.measureText(plainOf(row[i])).width;
    })) + 2 * pad);
    const [width, height] = [widths.reduce((a, b) => a + b), line * cells.length];
    Object.assign(canvas, { width: 2 * width, height: 2 * height });
    pen.scale(2, 2);
    pen.textBaseline = "middle";
    pen.fillStyle = css("paper");
    pen.fillRect(0, 0, width, height);
    cells.forEach((row, r) => row.reduce((x, cell, i) => {
      const mark = r === 0 ? "card" : ["best", "tied"].find((name) => cell.classList.contains(name));
      if (mark) { pen.fillStyle = css(mark); pen.fillRect(x, line * r, widths[i], line); }
      pen.fillStyle = css(r > 0 && cell.parentElement.classList.contains("ref") ? "muted" : "ink");
      pen.font = font(r, cell);
      pen.textAlign = i ? "right" : "left";
      pen.fillText(plainOf(cell), i ? x + widths[i] - pad : x + pad, line * (r + 0.5));
      pen.fillStyle = css("line");
      pen.fillRect(x, line * (r + 1) - 1, widths[i], 1);
      return x + widths[i];
    }, 0));
    return canvas.toDataURL("image/png");
  }

  function save(url, name) {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    root.dataset.saved = `${root.dataset.saved || ""}${name} ${url.length}; `;
  }

  function exported(table, kind) {
    if (kind === "png") return pictured(table);
    return `data:text/plain;charset=utf-8,${encodeURIComponent(written(table, kind))}`;
  }

  function bindTools(group) {
    for (const tools of group.section.querySelectorAll(".tools")) {
      const table = tools.closest(".block").querySelector("table.leaderboard");
      for (const box of tools.querySelectorAll(".all-columns")) {
        box.addEventListener("change", () => { table.classList.toggle("whole-table", box.checked); cue(group); });
      }
      for (const button of tools.querySelectorAll("[data-export]")) {
        const kind = button.dataset.export;
        button.addEventListener("click", () => save(exported(table, kind), `leaderboard.${kind}`));
      }
    }
  }

  /* A table that goes on to the right says so. */
  function cue(group) {
    for (const box of group.section.querySelectorAll(".scroller")) {
      const on = () => box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
      on();
      if (!box.dataset.cue) box.addEventListener("scroll", on, { passive: true });
      box.dataset.cue = "1";
    }
  }

  /* ---- two policies side by side ---- */

  function bindSides(group) {
    const table = group.section.querySelector("table.sides");
    if (!table) return;
    const { policies, values, gaps } = group.data.pairs;
    const choosers = [...group.section.querySelectorAll(".side")];
    const fill = () => {
      const [a, b] = choosers.map((chooser) => Number(chooser.value));
      [a, b].forEach((side, i) => { table.tHead.rows[0].cells[i + 1].textContent = policies[side]; });
      [...table.tBodies[0].rows].forEach((row, k) => {
        const [text, mark] = a === b ? ["–", ""] : gaps[a][b][k];
        [values[a][k], values[b][k], text].forEach((what, i) => { row.cells[i + 1].textContent = what; });
        row.cells[3].className = { better: "good", worse: "bad" }[mark] || "";
      });
    };
    choosers.forEach((chooser) => chooser.addEventListener("change", fill));
  }

  function bindTable(group) {
    const table = group.section.querySelector("table.leaderboard");
    if (!table) return;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sortTable(table, column, head));
    });
  }

  /* ---- groups ---- */

  function open(section) {
    const index = section.dataset.group;
    if (!groups.has(index)) {
      const data = JSON.parse(document.getElementById(`data-${index}`).textContent);
      const group = { section, data };
      groups.set(index, group);
      bindTable(group);
      bindTools(group);
      bindSides(group);
      bindChips(group);
      for (const chooser of section.querySelectorAll(".layer")) {
        chooser.addEventListener("change", () => drawGroup(group));
      }
      for (const chooser of section.querySelectorAll(".chooser")) {
        chooser.addEventListener("change", () => {
          for (const choice of chooser.closest(".block").querySelectorAll(".choice")) {
            choice.hidden = choice.dataset.choice !== chooser.value;
          }
          redraw();
        });
      }
      for (const box of section.querySelectorAll(".widen")) {
        box.addEventListener("change", () => draw(box.closest(".choice").querySelector(".plot"), group));
      }
      for (const panel of section.querySelectorAll(".heatmap")) {
        panel.querySelector("select").addEventListener("change", () => drawHeat(panel, group));
      }
    }
    return groups.get(index);
  }

  let current = null;
  const redraw = () => (current ? drawGroup(current) : Promise.resolve());

  async function show(index) {
    for (const section of document.querySelectorAll(".group")) section.hidden = section.dataset.group !== index;
    current = open(document.getElementById(`group-${index}`));
    await redraw();
    cue(current);
    report();
  }

  function report() {
    root.dataset.plots = String(document.querySelectorAll(".js-plotly-plot .main-svg").length);
    Page.ready();
  }

  const picker = document.getElementById("picker");
  if (picker) picker.addEventListener("change", () => { location.hash = `group-${picker.value}`; });
  const wanted = () => {
    const match = /^#group-(\d+)$/.exec(location.hash);
    return match && document.getElementById(`group-${match[1]}`) ? match[1] : "0";
  };
  window.addEventListener("hashchange", () => {
    if (/^#group-/.test(location.hash)) { picker.value = wanted(); show(wanted()); }
  });
  let timer = 0;
  window.addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(() => redraw().then(report), 200); });
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", redraw);
  window.addEventListener("afterprint", redraw);
  if (picker) picker.value = wanted();
  show(wanted()).catch(note);
})();
