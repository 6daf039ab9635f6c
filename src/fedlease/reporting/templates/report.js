"use strict";
(() => {
  const content = JSON.parse(document.getElementById("data").textContent);
  const clients = content.clients ?? []; // a comparison has none
  const root = document.documentElement;
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]], doubleClick: false };
  const PRINT_WIDTH = 660;
  const plots = Object.keys(content.figures).filter((id) => document.getElementById("plot-" + id));
  const box = (id) => document.getElementById("plot-" + id);
  const axes = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));

  function colours(layout) {
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(name).trim();
    const changed = {
      "paper_bgcolor": "rgba(0,0,0,0)",
      "plot_bgcolor": "rgba(0,0,0,0)",
      "font.color": of("--ink"),
      "hoverlabel.bgcolor": of("--raised"),
      "hoverlabel.bordercolor": of("--line"),
      "hoverlabel.font.color": of("--ink"),
      "modebar.bgcolor": "rgba(0,0,0,0)",
      "modebar.color": of("--soft"),
      "modebar.activecolor": of("--ink"),
    };
    for (const name of axes(layout)) {
      changed[name + ".gridcolor"] = of("--grid");
      changed[name + ".linecolor"] = of("--line");
      changed[name + ".zerolinecolor"] = of("--line");
    }
    return changed;
  }

  // Dotted keys, as relayout takes them, laid into a layout.
  function laid(layout, changed) {
    for (const [path, value] of Object.entries(changed)) {
      const keys = path.split(".");
      const last = keys.pop();
      keys.reduce((at, key) => (at[key] ??= {}), layout)[last] = value;
    }
    return layout;
  }

  // On a phone names, the legend and the colour bar would leave no room for the plot.
  function forNarrow(id, figure) {
    if (window.innerWidth >= 640) return;
    const named = figure.data.filter((trace) => trace.name && trace.showlegend !== false && trace.visible !== false);
    if (named.length > 3) box(id).style.height = parseInt(box(id).style.height) + 18 * (named.length - 3) + "px";
    for (const name of axes(figure.layout)) {
      const axis = figure.layout[name];
      if (axis.ticktext) axis.tickfont = { size: 9 };
    }
    for (const trace of figure.data) {
      if (trace.colorbar) {
        trace.colorbar = { ...trace.colorbar, orientation: "h", y: 1.02, yanchor: "bottom", len: 1, title: { text: "distance", side: "top" } };
        figure.layout.margin = { ...figure.layout.margin, t: 70 };
        box(id).style.height = box(id).clientWidth + 100 + "px"; // its cells are squares
      }
    }
  }

  for (const id of plots) {
    const figure = content.figures[id];
    forNarrow(id, figure);
    figure.layout.font = { family: getComputedStyle(document.body).fontFamily, size: window.innerWidth < 640 ? 11 : 13 };
    Plotly.newPlot(box(id), figure.data, laid(figure.layout, colours(figure.layout)), config);
  }

  function repaint() {
    for (const id of plots) Plotly.relayout(box(id), colours(box(id).layout));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const notes of document.querySelectorAll("details.notes")) notes.open = true;
    for (const id of plots) Plotly.relayout(box(id), { ...colours(box(id).layout), width: PRINT_WIDTH });
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const id of plots) Plotly.relayout(box(id), { ...colours(box(id).layout), width: null, autosize: true });
  });

  const pickers = [...document.querySelectorAll("select.client-picker")];
  const usageBox = box("usage-client");
  const scoreBox = box("score-tasks");

  function showUsage(client) {
    if (!usageBox) return;
    const routed = client.weights.length > 0;
    const names = content.modules.slice(0, client.weights.length);
    const each = [...usageBox.data.keys()];
    const hover = (e) => names.map((name, m) =>
      `${client.name}<br>${name}<br>${usageBox.data[e].name}: weight ${client.weights[m][e].toFixed(3)}` +
      `<br>${client.experts[m].toFixed(2)} experts per token`);
    const notes = names.map((name, m) => ({
      xref: "paper", x: 1, xanchor: "left", xshift: 6, y: name, showarrow: false, text: client.experts[m].toFixed(2),
    }));
    if (!routed) {
      notes.push({ xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, text: "nothing was routed for this client" });
    }
    Plotly.update(usageBox, {
      x: each.map((e) => client.weights.map((weights) => weights[e])),
      y: each.map(() => names),
      hovertext: each.map(hover),
    }, { annotations: notes, "margin.r": 48 });
    const text = routed
      ? `${client.name.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&")}: experts per token from ` +
        `${Math.min(...client.experts).toFixed(2)} to ${Math.max(...client.experts).toFixed(2)} over ${names.length} modules.`
      : "Nothing was routed for this client.";
    usageBox.setAttribute("aria-label", "Usage by one client. " + text);
  }

  function showScore(client) {
    if (!scoreBox) return;
    const at = scoreBox.data.findIndex((trace) => trace.meta === "picked");
    const ink = getComputedStyle(root).getPropertyValue("--ink").trim();
    Plotly.restyle(scoreBox, client
      ? { visible: true, x: [client.at ?? client.x], y: [client.y], name: client.name, "line.color": ink, "marker.color": ink,
          hovertext: [client.y.map((y, i) => `${client.name}<br>passes ${client.x[i]}: ${y.toFixed(1)} %`)] }
      : { visible: false }, [at]);
  }

  function pick(value) {
    const client = value === "" ? null : clients[Number(value)];
    for (const picker of pickers) {
      if (value !== "" || picker.options[0].value === "") picker.value = value;
    }
    for (const row of document.querySelectorAll("tr[data-client]")) {
      row.classList.toggle("picked", value !== "" && row.dataset.client === value);
    }
    showScore(client);
    if (client) showUsage(client);
  }

  for (const picker of pickers) picker.addEventListener("change", () => pick(picker.value));
  for (const button of document.querySelectorAll("button.pick")) {
    button.addEventListener("click", () => pick(button.dataset.pick));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (pickers.length && pickers[0].value !== "") pick(pickers[0].value);
  });
  const firstRouted = clients.findIndex((client) => client.weights.length > 0);
  if (firstRouted >= 0) {
    for (const picker of pickers) if (picker.options[0].value !== "") picker.value = String(firstRouted);
    showUsage(clients[firstRouted]);
  }
  // A browser that restores what was picked before a reload fires no event.
  if (pickers.length && pickers[0].value !== "" && pickers[0].options[0].value === "") pick(pickers[0].value);

  function sort(header) {
    const row = header.parentElement;
    const column = [...row.children].indexOf(header);
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of row.children) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = header.closest("table").tBodies[0];
    const key = (line) => {
      const cell = line.children[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x === "number" && typeof y === "number") return x - y;
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      return x.localeCompare(y, "en", { numeric: true });
    };
    const lines = [...body.rows].sort(order);
    if (!ascending) lines.reverse();
    body.append(...lines);
  }
  for (const header of document.querySelectorAll("table.sortable thead th")) {
    header.querySelector("button").addEventListener("click", () => sort(header));
  }
  root.dataset.ready = "yes";
})();
