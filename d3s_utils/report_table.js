// Sorts a table by the column whose heading is pressed: first the other way round, numbers before words.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const falling = heading.getAttribute("aria-sort") !== "descending";
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const key = row => row.cells[column].dataset.value;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays below
      const numbers = [Number(x), Number(y)];
      const before = numbers.some(Number.isNaN) ? x.localeCompare(y) : numbers[0] - numbers[1];
      return falling ? -before : before;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
