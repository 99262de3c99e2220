// Every table sorts by any heading: the largest first, the smallest first, the order of the page again; unknown values last.

function sortValue(cell) {
  const value = cell.dataset.value;
  return value === "" ? null : Number.isNaN(Number(value)) ? value : Number(value);
}

function compareValues(a, b) {
  if (typeof a === "number" && typeof b === "number") return b - a;
  return String(b).localeCompare(String(a), "en", { numeric: true });
}

function makeSortable(table) {
  const body = table.tBodies[0], usual = [...body.rows], headings = [...[...table.tHead.rows].at(-1).cells]; // groups of columns may stand above
  let sorting = null; // {column, sign}: 1 for the largest first
  const draw = () => {
    const rows = [...usual];
    if (sorting) {
      const value = (row) => sortValue(row.cells[sorting.column]);
      rows.sort((a, b) => (value(a) === null) - (value(b) === null) || sorting.sign * compareValues(value(a), value(b)));
    }
    body.replaceChildren(...rows);
    headings.forEach((heading, column) => {
      const state = sorting && sorting.column === column ? (sorting.sign > 0 ? "descending" : "ascending") : "none";
      heading.setAttribute("aria-sort", state);
      heading.querySelector(".mark").textContent = { descending: " ▾", ascending: " ▴", none: "" }[state];
    });
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button"), mark = document.createElement("span");
    button.type = "button";
    button.textContent = heading.firstChild.textContent;
    mark.className = "mark";
    button.append(mark);
    heading.firstChild.replaceWith(button);
    button.addEventListener("click", () => {
      const isSame = sorting && sorting.column === column;
      sorting = !isSame ? { column, sign: 1 } : sorting.sign > 0 ? { column, sign: -1 } : null;
      draw();
      button.focus();
    });
    if (table.tBodies[0].rows[0].cells[column].classList.contains("text")) heading.classList.add("text");
  });
  draw();
}

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
