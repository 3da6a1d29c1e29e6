"use strict";
(() => {
  const status = document.getElementById("status");
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  // Empty cells stay last in both directions.
  const sort = (table, column, falling) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      const raw = cell.dataset.sort ?? cell.textContent.trim();
      return { row, raw, value: cell.dataset.sort === undefined ? NaN : cell.dataset.sort === "inf" ? Infinity : cell.dataset.sort === "-inf" ? -Infinity : Number(raw), empty: raw === "" || raw === "–" };
    });
    keyed.sort((a, b) => {
      if (a.empty !== b.empty) return a.empty ? 1 : -1;
      const numbers = !Number.isNaN(a.value) && !Number.isNaN(b.value);
      const order = numbers ? Math.sign(a.value - b.value) || 0 : compare(a.raw, b.raw);
      return falling ? -order : order;
    });
    body.append(...keyed.map((entry) => entry.row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        sort(table, column, falling);
        status.textContent = `sorted by ${head.dataset.name}, ${falling ? "descending" : "ascending"}`;
      });
    });
  }

  // The spec is printed though it is folded away on screen, and folded again afterwards.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.spec:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
