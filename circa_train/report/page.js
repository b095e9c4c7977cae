"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);

  // Tables: a button in every head sorts; what has no value stays at the end either way.
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.textContent === "" ? null : cell.textContent;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const sort = (table, column, descending) => {
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row, place) => ({ row, place, key: keyOf(row, column) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
      return (descending ? compare(b.key, a.key) : compare(a.key, b.key)) || a.place - b.place;
    });
    body.append(...keyed.map((each) => each.row));
    Array.from(table.tHead.rows[0].cells).forEach((head, place) => {
      if (place === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(table, column, head.getAttribute("aria-sort") === "ascending"));
    });
  }

  // Filters: a row is shown if it has all the words.
  for (const input of document.querySelectorAll("input[data-filters]")) {
    const rows = Array.from(document.getElementById(input.dataset.filters).tBodies[0].rows);
    const told = document.querySelector(`[data-counts="${input.dataset.filters}"]`);
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      told.textContent = `${shown} of ${rows.length} rows`;
    };
    input.addEventListener("input", filter);
    filter();
  }

  // Figures: a point tells what it is under the pointer, and with the arrow keys.
  const told = document.getElementById("told");
  const hide = () => {
    told.hidden = true;
    for (const hit of document.querySelectorAll(".hit.here")) hit.classList.remove("here");
  };
  for (const svg of document.querySelectorAll("svg.figure")) {
    const texts = data.notes[svg.dataset.figure] || [];
    const hits = Array.from(svg.querySelectorAll(".hit"));
    let current = -1;
    const show = (index) => {
      hide();
      current = index;
      const hit = hits[index];
      hit.classList.add("here");
      told.textContent = texts[index];
      told.hidden = false;
      const box = hit.getBoundingClientRect();
      const left = Math.min(box.right + 8, document.documentElement.clientWidth - told.offsetWidth - 8);
      told.style.left = `${Math.max(left, 8) + window.scrollX}px`;
      told.style.top = `${box.bottom + 8 + window.scrollY}px`;
    };
    hits.forEach((hit, index) => hit.addEventListener("pointerenter", () => show(index)));
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (step === undefined || hits.length === 0) return;
      event.preventDefault();
      show(current < 0 ? (step > 0 ? 0 : hits.length - 1) : (current + step + hits.length) % hits.length);
    });
  }

  // The table as a file, byte by byte the one beside this page.
  const save = document.getElementById("save-csv");
  if (save) {
    save.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([data.csv], { type: "text/csv" }));
      link.download = "results.csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  // On paper nothing can be opened.
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
