"use strict";
// Shows the rows of one page: filters choose them, and only cards near the window exist. What the rows hold is written
// as text, never as markup. A column is a list, or values that a code names for each row.
(() => {
  const byId = (id) => document.getElementById(id);
  const dialog = byId("details");
  const data = JSON.parse(byId("data").textContent);
  const { columns, models } = data;
  const size = columns.id.length;
  const at = (column, row) => (column.codes ? column.values[column.codes[row]] : column[row]);
  const of = (name, row) => at(columns[name], row);
  const placeAmongAsked = new Map(data.asked.map((row, place) => [row, place]));
  const number = new Intl.NumberFormat("en").format;
  const share = (percent) => (percent < 0 ? "–" : (percent / 100).toFixed(2));
  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // What a row says
  const titleOf = (row) => of("label", row) + " " + (data.phrases[of("background", row)] ?? of("background", row));
  const verdictOf = (row) => (of("kept", row) ? "kept" : "rejected");
  const answerOf = (model, row) => {
    const place = placeAmongAsked.get(row);
    const sign = !model || place === undefined ? "-" : model.right[place];
    if (sign === "-") return { verdict: "unasked", text: "not asked" };
    const verdict = { 1: "right", 0: "wrong" }[sign] ?? "unknown";
    return {
      verdict, text: (verdict === "unknown" ? "said" : verdict) + ": " + at(model.says, place),
      in9: { 1: "right", 0: "wrong" }[model.in9[place]] ?? "–", confidence: share(model.confidence[place]),
    };
  };
  const addressOf = (folder, name) => data.base + (folder + "/" + name).split("/").map(encodeURIComponent).join("/");
  const fileOf = (row, guide) => {
    const folder = of(guide ? "guideFolder" : "folder", row);
    return folder && { folder, name: of(guide ? "guideName" : "name", row) || of("id", row) + ".png" };
  };
  const frame = (row, guide, large) => {
    const kind = guide ? "guide" : "image", file = fileOf(row, guide);
    const none = (reason) => element("span", { className: "none", textContent: reason });
    const caption = element("span", { className: "kind", textContent: kind });
    if (!file) return element("span", { className: "frame" }, none("no " + kind), caption);
    const unreadable = guide ? "" : of("unreadable", row);
    if (unreadable) return element("span", { className: "frame" }, none("unreadable: " + unreadable), caption);
    const small = !large && (of("small", row) & (guide ? 2 : 1));
    const image = element("img", {
      loading: "lazy", decoding: "async", alt: kind + ": " + titleOf(row),
      src: small ? addressOf(data.thumbnails + file.folder, file.name + ".webp") : addressOf(file.folder, file.name),
    });
    image.addEventListener("error", () => image.replaceWith(none("the file of this " + kind + " cannot be shown")));
    return element("span", { className: "frame" }, image, caption);
  };

  // Filters
  const some = (...names) => names.map((name) => [name, name]);
  const inOrder = (name) => [...new Set(columns.id.map((_, row) => of(name, row)))];
  const phrases = Object.keys(data.phrases);
  const byPhrase = (a, b) => (phrases.indexOf(a) + 1 || 99) - (phrases.indexOf(b) + 1 || 99);
  const choices = {
    class: [["", "all"], ...some(...inOrder("label"))],
    background: [["", "all"], ...some(...inOrder("background").sort(byPhrase))],
    verdict: [["", "all"], ...some("kept", "rejected")],
    split: [["", "all"], ...some(...inOrder("split").sort())],
    classifier: some(...models.map((model) => model.name)),
    answer: [["", "all"], ...some("right", "wrong"), ["unasked", "not asked"]],
  };
  for (const [id, options] of Object.entries(choices)) {
    byId(id).append(...options.map(([value, text]) => new Option(text, value)));
  }
  for (const one of document.querySelectorAll(".answers")) one.hidden = !models.length;
  const names = [...Object.keys(choices), "find"];
  const chosen = () => Object.fromEntries(names.map((name) => [name, byId(name).value]));
  const modelNow = () => models.find((model) => model.name === byId("classifier").value);
  const fits = (row, want, model) =>
    (!want.class || of("label", row) === want.class) &&
    (!want.background || of("background", row) === want.background) &&
    (!want.verdict || verdictOf(row) === want.verdict) && (!want.split || of("split", row) === want.split) &&
    (!want.answer || answerOf(model, row).verdict === want.answer) &&
    (!want.find || (of("id", row) + "\n" + of("reason", row)).toLowerCase().includes(want.find.toLowerCase()));

  let found = []; // the rows that are shown
  let open = -1; // which of them the dialog shows
  const apply = () => {
    const want = chosen(), model = modelNow();
    found = [...columns.id.keys()].filter((row) => fits(row, want, model));
    byId("count").textContent = number(found.length) + " of " + number(size) + " images" +
      (data.pages > 1 ? " on this page (" + number(data.total) + " in all)" : "");
    byId("nothing").hidden = found.length > 0;
    forget();
    draw();
  };
  const keep = () => {
    const parameters = new URLSearchParams();
    for (const name of names) {
      const usual = choices[name]?.[0]?.[0] ?? "";
      if (byId(name).value !== usual) parameters.set(name, byId(name).value);
    }
    for (const link of document.querySelectorAll("a.page")) { // a class is on its own page
      const others = new URLSearchParams(parameters);
      others.delete("class");
      link.hash = others.toString();
    }
    if (open >= 0) parameters.set("image", of("id", found[open]));
    const hash = parameters.toString();
    if (hash === location.hash.slice(1)) return;
    history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
  };
  const read = () => {
    const parameters = new URLSearchParams(location.hash.slice(1));
    for (const name of names) {
      const usual = choices[name]?.[0]?.[0] ?? "", value = parameters.get(name) ?? usual;
      const known = !choices[name] || choices[name].some(([one]) => one === value);
      byId(name).value = known ? value : usual;
    }
    apply();
    const wanted = found.findIndex((row) => of("id", row) === parameters.get("image"));
    if (wanted >= 0) show(wanted);
    else if (dialog.open) {
      open = -1;
      dialog.close();
    }
    keep();
  };

  // Cards: those near the window, each at its place
  const list = byId("cards");
  const cards = new Map(); // place in `found` -> element
  let columnsNow = 1, cardWidth = 0, cardHeight = 0;
  const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
  const makeCard = (place) => {
    const row = found[place], answer = answerOf(modelNow(), row), verdict = verdictOf(row);
    const line = (className, ...content) => element("span", { className }, ...content);
    const button = element("button", { type: "button", className: "card " + answer.verdict },
      line("pair", frame(row, true), frame(row, false)),
      line("line name", titleOf(row)),
      line("line", "judges: " + [of("object", row), of("place", row)].map((said) => said || "–").join(", ")));
    if (models.length) button.append(line("line said " + answer.verdict, answer.text));
    button.append(line("two", element("b", { textContent: verdict }),
      " (" + of("split", row) + ")" + (of("reason", row) ? ": " + of("reason", row) : "")));
    button.addEventListener("click", () => show(place));
    const card = element("li", {}, button);
    card.setAttribute("aria-setsize", found.length);
    card.setAttribute("aria-posinset", place + 1);
    card.dataset.place = place;
    return card;
  };
  const forget = () => {
    for (const card of cards.values()) card.remove();
    cards.clear();
    cardHeight = 0;
  };
  const layOut = () => {
    const gap = 0.8 * rem(), width = list.clientWidth;
    columnsNow = Math.max(1, Math.floor((width + gap) / (15.5 * rem() + gap)));
    cardWidth = (width - gap * (columnsNow - 1)) / columnsNow;
    if (!cardHeight && found.length) { // all cards are as high as the first
      const probe = makeCard(0);
      probe.style.width = cardWidth + "px";
      list.append(probe);
      cardHeight = probe.offsetHeight;
      probe.remove();
    }
    const rows = Math.ceil(found.length / columnsNow);
    list.style.height = Math.max(0, rows * (cardHeight + gap) - gap) + "px";
    return gap;
  };
  const draw = () => {
    const gap = layOut(), step = cardHeight + gap, top = -list.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - innerHeight) / step)) * columnsNow;
    const last = Math.min(found.length, Math.ceil((top + 2 * innerHeight) / step) * columnsNow);
    const focused = Number(document.activeElement?.closest("#cards li")?.dataset.place ?? -1);
    for (const [place, card] of cards) {
      if ((place < first || place >= last) && place !== focused) {
        card.remove();
        cards.delete(place);
      }
    }
    for (let place = first; place < last; place++) put(place);
    for (const [place, card] of cards) {
      const x = (place % columnsNow) * (cardWidth + gap), y = Math.floor(place / columnsNow) * step;
      card.style.width = cardWidth + "px";
      card.style.transform = "translate(" + x + "px, " + y + "px)";
    }
  };
  const put = (place) => {
    if (cards.has(place)) return;
    const card = makeCard(place);
    const after = [...list.children].find((other) => Number(other.dataset.place) > place); // order is reading order
    list.insertBefore(card, after ?? null);
    cards.set(place, card);
  };
  const reach = (place) => {
    const step = cardHeight + 0.8 * rem(), row = Math.floor(place / columnsNow) * step;
    const above = list.getBoundingClientRect().top + row, covered = byId("filters").getBoundingClientRect().bottom;
    if (above < Math.max(0, covered) || above + cardHeight > innerHeight) scrollBy(0, above - innerHeight / 3);
    draw();
    cards.get(place)?.firstChild.focus({ preventScroll: true });
  };
  let waiting = false;
  const soon = () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  };
  let widthBefore = 0;
  new ResizeObserver(() => {
    if (list.clientWidth !== widthBefore) cardHeight = 0;
    widthBefore = list.clientWidth;
    soon();
  }).observe(list);
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", soon);
  list.addEventListener("keydown", (event) => {
    const card = event.target.closest("li");
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columnsNow, ArrowDown: columnsNow };
    if (!card || !(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    const place = Number(card.dataset.place) + steps[event.key];
    event.preventDefault();
    if (place >= 0 && place < found.length) reach(place);
  });

  // The larger view
  const table = (headings, rows) => {
    const top = element("tr", {}, ...headings.map((text) => element("th", { scope: "col", textContent: text })));
    const body = rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name),
      ...cells.map((cell) => element("td", {}, cell))));
    const all = element("table", {}, element("tbody", {}, ...body));
    if (headings.length) all.prepend(element("thead", {}, top));
    return element("div", { className: "scroll" }, all);
  };
  const said = (answer) => element("span", { className: "said " + answer.verdict, textContent: answer.text });
  const heading = (text) => element("h3", { textContent: text });
  const detailsOf = (row) => {
    const facts = [
      ["Verdict", verdictOf(row) + (of("reason", row) ? ": " + of("reason", row) : "")],
      ["Decided by", of("decided", row)], ["People", of("people", row)],
      ["Class", of("label", row)], ["Superclass", of("superclass", row)], ["Background", of("background", row)],
      ["Split", of("split", row)], ["Id", of("id", row)], ["Prompt", of("prompt", row)], ["Seed", of("seed", row)],
      ["Made with", of("made", row)], ["Object", of("foreground", row)], ["Scene", of("scene", row)],
      ["Unsafe score", share(of("unsafe", row))],
    ].filter(([, text]) => text && text !== "–");
    const block = (className, ...content) => element("div", { className }, ...content);
    const answers = block("heard");
    if (models.length) {
      answers.append(heading("What the classifiers said"), table(["Classifier", "Answer", "ImageNet-9", "Confidence"],
        models.map((model) => [model, answerOf(model, row)]).map(([model, answer]) =>
          [model.name, said(answer), answer.in9 ?? "–", answer.confidence ?? "–"])));
    }
    const judgesOf = (question) => data.judges.filter((one) => one.question === question && one.role === "judge");
    const together = [["object", "object", "objectScore"], ["background", "place", "placeScore"]]
      .filter(([question]) => judgesOf(question).length !== 1) // what a lonely judge says stands below
      .map(([question, said, score]) => ["all judges", question, of(said, row) || "–", share(of(score, row))]);
    const alone = data.judges.map((judge) => [judge.name + (judge.role ? " (" + judge.role + ")" : ""), judge.question,
      at(judge.says, row) || "–", share(judge.score[row])]);
    answers.append(heading("What the models of notebook 03 said"),
      table(["Model", "Question", "Says", "Probability of the label"], [...together, ...alone]));
    return [block("pair", frame(row, true, true), frame(row, false, true)), answers, block("facts", table([], facts))];
  };
  const show = (place) => {
    open = place;
    const row = found[place];
    byId("title").textContent = titleOf(row);
    byId("position").textContent = number(place + 1) + " of " + number(found.length);
    byId("content").replaceChildren(...detailsOf(row));
    byId("back").disabled = place === 0;
    byId("on").disabled = place === found.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    byId("title").focus(); // so that what is shown is read aloud, and a button that went dead keeps no focus
    keep();
  };
  const move = (step) => { if (open + step >= 0 && open + step < found.length) show(open + step); };
  byId("back").addEventListener("click", () => move(-1));
  byId("on").addEventListener("click", () => move(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(step);
  });
  dialog.addEventListener("close", () => {
    const place = open;
    open = -1;
    keep();
    if (place >= 0) reach(place);
  });

  byId("filters").addEventListener("input", () => { apply(); keep(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { apply(); keep(); }));
  addEventListener("hashchange", read);
  byId("filters").hidden = false;
  read();
})();
