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

  const showBand = (board, band) => {
    let hidden = 0;
    for (const row of board.querySelectorAll("tr[data-ranks]")) {
      const ranks = JSON.parse(row.dataset.ranks);
      row.hidden = !(band in ranks);
      hidden += row.hidden;
      if (!row.hidden) row.querySelector(".place").textContent = ranks[band] ?? "–";
    }
    const words = hidden === 1 ? "1 defense that loses more accuracy is hidden." : `${hidden} defenses that lose more accuracy are hidden.`;
    board.querySelector(".note").textContent = hidden ? words : "";
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
