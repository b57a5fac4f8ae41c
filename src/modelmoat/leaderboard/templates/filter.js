"use strict";
(() => {
  const form = document.querySelector(".filters");
  const boards = [...document.querySelectorAll("section[data-board]")];
  const count = form.querySelector("[data-count]");

  const keeps = (board) =>
    ["data", "victim", "access", "budget"].every((name) => {
      const wanted = form.elements[name].value;
      return wanted === "" || board.dataset[name] === wanted;
    });

  // The order that the page comes with, for any limit: who keeps it, who does not, who has no place.
  const showBand = (board, band) => {
    const rows = [...board.querySelectorAll("tr[data-position]")].map((row) => {
      const ranks = row.dataset.ranks && JSON.parse(row.dataset.ranks);
      const missing = ranks && ranks.any === null;
      const over = ranks && !missing && !(band in ranks);
      if (ranks) {
        row.querySelector(".place").textContent = ranks[band] ?? "–";
        row.querySelector(".beyond").hidden = !over;
        row.classList.toggle("aside", over || missing);
      }
      return { row, group: missing ? 2 : over ? 1 : 0, position: Number(row.dataset.position) };
    });
    rows.sort((one, other) => one.group - other.group || one.position - other.position);
    board.querySelector("tbody").append(...rows.map(({ row }) => row));
    const note = board.querySelector(".note");
    note.textContent = JSON.parse(note.dataset.notes)[band];
  };

  const apply = () => {
    let shown = 0;
    for (const board of boards) {
      board.hidden = !keeps(board);
      shown += !board.hidden;
      showBand(board, form.elements.band.value);
    }
    count.textContent = shown ? `${shown} of ${boards.length} rankings shown.` : "No ranking has all of these; choose fewer.";
  };

  form.hidden = false;
  form.addEventListener("change", apply);
  addEventListener("pageshow", apply);
  apply();
})();
