// On paper nothing can be unfolded.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const number = head.classList.contains("num"), column = head.cellIndex;
    const value = row => {
      const cell = row.cells[column];
      return number ? parseFloat(cell.dataset.value ?? "NaN") : cell.textContent;
    };
    const order = (a, b) => {
      const x = value(a), y = value(b);
      if (!number) return down * x.localeCompare(y, undefined, {numeric: true});
      return Number.isNaN(x) - Number.isNaN(y) || down * (x - y);
    };
    body.append(...[...body.rows].sort(order));
  });
}
