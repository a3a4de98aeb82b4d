"use strict";
{
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Tables. A cell is sorted by data-value, where it has one: what is no number comes last.
  const words = new Intl.Collator("en", { numeric: true });

  function key(row, column) {
    const { dataset, textContent } = row.cells[column];
    if (dataset.value === undefined) return textContent.trim();
    return dataset.value === "" ? null : Number(dataset.value);
  }

  function compare(a, b) {
    return typeof a === "string" ? words.compare(a, b) : (a > b) - (a < b);
  }

  function sort(head) {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const direction = head.ariaSort === first ? other : first;
    for (const sibling of head.parentNode.cells) sibling.ariaSort = "none";
    head.ariaSort = direction;
    const sign = direction === "ascending" ? 1 : -1;
    const body = head.closest("table").tBodies[0];
    const keyed = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) =>
      a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
  }

  for (const head of all("th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => sort(head));
  }

  // Copying. The text is selected too: where the browser refuses, the keyboard still copies it.
  for (const button of all("[data-copy]")) {
    button.addEventListener("click", () => {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
    });
  }

  // Layers
  const table = document.getElementById("table");
  if (table) layers(table);

  function layers(table) {
    const histograms = JSON.parse(document.getElementById("histograms").textContent);
    const rows = new Map(all("tbody tr", table).map((row) => [Number(row.dataset.layer), row]));
    const select = document.getElementById("chosen");
    const tip = document.getElementById("tip");

    const bars = document.getElementById("bars");

    function draw() {
      bars.replaceChildren(histogram(histograms[select.value], bars.clientWidth));
    }

    function choose(layer) {
      table.querySelector("[aria-current]")?.removeAttribute("aria-current");
      rows.get(layer).setAttribute("aria-current", "true");
      select.value = layer;
      draw();
    }

    for (const [layer, row] of rows) {
      row.querySelector("button").addEventListener("click", () => choose(layer));
    }
    select.addEventListener("change", () => choose(Number(select.value)));
    addEventListener("resize", draw);
    choose(Number(select.value));

    for (const picture of all(".depth")) {
      const box = picture.viewBox.baseVal;
      const [first, last] = picture.dataset.x.split(" ").map(Number);
      const [y1, y2] = picture.dataset.y.split(" ");
      const step = (last - first) / (rows.size - 1 || 1);
      const guide = element("line", { class: "guide", y1, y2, visibility: "hidden" });
      picture.append(guide);
      let shown = null;

      function show(layer) {
        shown = Math.max(0, Math.min(rows.size - 1, layer));
        const x = first + step * shown;
        for (const [name, value] of [["x1", x], ["x2", x], ["visibility", "visible"]]) {
          guide.setAttribute(name, value);
        }
        tip.replaceChildren(...described(rows.get(shown)));
        tip.hidden = false;
        const wide = picture.getBoundingClientRect().width;
        const place = x / box.width * wide;
        const beside = place < wide / 2 ? place + 12 : place - 12 - tip.offsetWidth;
        tip.style.left = `${Math.max(0, Math.min(wide - tip.offsetWidth, beside))}px`;
      }

      function hide() {
        tip.hidden = true;
        guide.setAttribute("visibility", "hidden");
      }

      function under(event) {
        const { left, width } = picture.getBoundingClientRect();
        const x = (event.clientX - left) / width * box.width;
        show(step ? Math.round((x - first) / step) : 0);
      }

      picture.addEventListener("pointermove", under);
      picture.addEventListener("pointerdown", under);
      picture.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
      picture.addEventListener("click", () => choose(shown));
      picture.addEventListener("focus", () => show(shown ?? Number(select.value)));
      picture.addEventListener("blur", hide);
      picture.addEventListener("keydown", (event) => {
        const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (by) show(shown + by);
        else if (event.key === "Enter") choose(shown);
        else if (event.key === "Escape") hide();
        else return;
        event.preventDefault();
      });
    }

    // The values are those of the table.
    function described(row) {
      const name = document.createElement("span");
      name.className = "name";
      name.textContent = row.querySelector(".name").textContent;
      const list = document.createElement("dl");
      for (const head of all("th[data-hover]", table)) {
        const title = document.createElement("dt"), value = document.createElement("dd");
        title.textContent = head.textContent.trim();
        value.textContent = row.cells[head.cellIndex].textContent;
        list.append(title, value);
      }
      return [name, list];
    }
  }

  // Histograms
  function element(tag, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  function histogram({ edges, counts, levels, shares }, width) {
    const height = 230, top = 46, bottom = 190;
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    const known = [...edges, ...levels].filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known), most = Math.max(0, ...counts);
    if (!(high > low && most > 0)) {
      svg.append(element("text", { x: 12, y: top }, "This layer has no histogram."));
      return svg;
    }
    const heard = levels.map((level, i) => `${level}: ${percent(shares[i])}`).join(", ");
    svg.setAttribute("aria-label", `Coefficients, and levels with their shares: ${heard}`);
    const x = (value) => 12 + (value - low) / (high - low) * (width - 24);
    const sides = edges.map((edge, i) => x(edge ?? (i ? high : low)));
    counts.forEach((count, i) => {
      const size = (bottom - top) * count / most;
      const wide = Math.max(0.5, sides[i + 1] - sides[i] - 0.5);
      const bar = element("rect", { x: sides[i], y: bottom - size, width: wide, height: size });
      bar.append(element("title", {}, `${edges[i]} to ${edges[i + 1]}: ${count}`));
      svg.append(bar);
    });
    svg.append(element("line", { class: "axis", x1: x(low), x2: x(high), y1: bottom, y2: bottom }));
    const gaps = levels.slice(1).map((level, i) => x(level) - x(levels[i]));
    const turned = Math.min(...gaps) < 44;
    levels.forEach((level, i) => {
      const at = x(level), value = String(level).replace("-", "−");
      svg.append(element("line", { class: "level", x1: at, x2: at, y1: top - 4, y2: bottom + 4 }));
      svg.append(label(at, top - 8, percent(shares[i]), turned, "start", "share"));
      svg.append(label(at, bottom + (turned ? 8 : 18), value, turned, "end", "value"));
    });
    return svg;
  }

  function label(x, y, text, turned, anchor, kind) {
    const place = turned
      ? { transform: `translate(${x + 4} ${y}) rotate(-90)`, "text-anchor": anchor }
      : { x, y, "text-anchor": "middle" };
    return element("text", { ...place, class: kind }, text);
  }

  function percent(share) {
    return `${(100 * share).toFixed(1)}%`;
  }
}
