for (const table of document.querySelectorAll(".sortable table")) {
  const body = table.tBodies[0];
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), column = [...head.parentNode.children].indexOf(head);
      const words = head.classList.contains("words"), now = head.getAttribute("aria-sort");
      const downwards = words ? now === "ascending" : now !== "descending";
      const value = (row) => row.cells[column].dataset.value;
      for (const other of head.parentNode.children)
        if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", downwards ? "descending" : "ascending");
      const sign = downwards ? -1 : 1;
      const rows = [...body.rows].sort((a, b) => {
        const [one, other] = [value(a), value(b)];
        // What was not measured stays at the end in either direction.
        if (one === "" || other === "") return (one === "") - (other === "");
        const numbers = [Number(one), Number(other)];
        return sign * (numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1]);
      });
      body.append(...rows);
    });
  }
}
