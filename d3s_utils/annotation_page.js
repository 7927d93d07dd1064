"use strict";
// One task: a list of pictures and three questions about each. Nothing is loaded and nothing is sent by this page; the
// answers lie in localStorage until they are saved as a file, or handed in where the page runs as a HIT.
(() => {
  const byId = (id) => document.getElementById(id);
  const bytes = Uint8Array.from(atob(byId("task").textContent.trim()), (c) => c.charCodeAt(0));
  const task = JSON.parse(new TextDecoder().decode(bytes));
  const parameters = new URLSearchParams(location.search);
  const isHit = parameters.has("assignmentId");
  const preview = parameters.get("assignmentId") === "ASSIGNMENT_ID_NOT_AVAILABLE";
  let state = null; // {worker, order, at, answers: {item: {question: {answer, time}}}, log: [[item, question, before]]}

  // A small generator with a seed (mulberry32), so that a worker meets the same order after a reload.
  const seeded = (text) => {
    let seed = 2166136261;
    for (const c of text) seed = Math.imul(seed ^ c.codePointAt(0), 16777619);
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  };
  const shuffled = (n, text) => {
    const order = [...Array(n).keys()], random = seeded(text);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  };

  const key = (worker) => `d3s-votes/${task.task_id}/${worker}`;
  const store = () => {
    try { localStorage.setItem(key(state.worker), JSON.stringify(state)); } catch { byId("progress").textContent +=
      " (this browser keeps nothing: save the answers before you close the page)"; }
    byId("answers").value = JSON.stringify(record());
  };
  const stored = (worker) => {
    try { return JSON.parse(localStorage.getItem(key(worker))); } catch { return null; }
  };
  const record = () => ({
    format: "d3s-votes-1", task_id: task.task_id, worker: state.worker, started: state.started,
    order: state.order.map((i) => task.items[i].item_id),
    answers: Object.entries(state.answers).flatMap(([item, given]) =>
      Object.entries(given).map(([question, { answer, time }]) => ({ item_id: item, question, answer, time }))),
  });
  const answersOf = (item) => state.answers[item.item_id] ?? {};
  const isDone = (item) => task.questions.every((question) => question.name in answersOf(item));
  const current = () => task.items[state.order[state.at]];

  const begin = (worker) => {
    state = stored(worker) ?? {
      worker, started: new Date().toISOString(), order: shuffled(task.items.length, `${task.task_id}/${worker}`), at: 0,
      answers: {}, log: [],
    };
    byId("start").hidden = true;
    byId("help").open = Object.keys(state.answers).length === 0;
    show();
  };

  const give = (question, answer) => {
    const item = current().item_id;
    state.log.push([item, question, answersOf(current())[question] ?? null]);
    (state.answers[item] ??= {})[question] = { answer, time: new Date().toISOString() };
    store();
    refresh();
  };
  const undo = () => {
    const last = state.log.pop();
    if (!last) return;
    const [item, question, before] = last;
    if (before) state.answers[item][question] = before; else delete state.answers[item][question];
    state.at = state.order.findIndex((i) => task.items[i].item_id === item);
    store();
    show();
  };
  const move = (step) => {
    state.at = Math.min(Math.max(state.at + step, 0), state.order.length);
    store();
    show();
  };

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const drawQuestions = () => {
    byId("questions").replaceChildren(...task.questions.map((question) => element("fieldset", {},
      element("legend", { textContent: question.text }),
      element("div", { className: "choices" }, ...question.answers.map((answer) => {
        const input = element("input", { type: "radio", name: question.name, value: answer.value });
        input.checked = answersOf(current())[question.name]?.answer === answer.value;
        input.addEventListener("change", () => give(question.name, answer.value));
        return element("label", {}, input, ` ${answer.text}`);
      })))));
  };
  const refresh = () => {
    const done = task.items.filter(isDone).length;
    byId("progress").textContent = `${done} of ${task.items.length} pictures answered`;
    Object.assign(byId("bar"), { max: task.items.length, value: done });
    byId("back").disabled = state.at === 0;
    byId("undo").disabled = state.log.length === 0;
    const here = current();
    byId("next").disabled = Boolean(here) && !isDone(here);
    if (isHit) byId("submit").hidden = preview || done < task.items.length;
  };
  const show = () => {
    const item = current();
    byId("item").hidden = !item;
    byId("end").hidden = Boolean(item);
    if (item) {
      byId("item-title").textContent = `Picture ${state.at + 1} of ${task.items.length}: ${item.class_name}`;
      byId("gloss").textContent = item.gloss;
      byId("guide").src = item.guide;
      byId("result").src = item.result;
      byId("examples").replaceChildren(...item.examples.map((src, i) => element("img", { src, alt: `example ${i + 1}` })));
      drawQuestions();
    } else {
      const open = task.items.filter((one) => !isDone(one)).length;
      byId("open-items").textContent = open ? `${open} pictures are still open.` : "";
      byId("end-title").textContent = open ? "The end, but not all is answered." : "All answered. Thank you.";
    }
    refresh();
    byId(item ? "item-title" : "end-title").focus();
  };

  byId("back").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("undo").addEventListener("click", undo);
  byId("review").addEventListener("click", () => { state.at = 0; show(); });
  byId("download").addEventListener("click", () => {
    const blob = new Blob([JSON.stringify(record(), null, 1)], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(blob), download: `votes-${task.task_id}-${state.worker}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  byId("begin").addEventListener("click", () => {
    const worker = byId("worker").value.trim();
    if (/^[\w.@-]{1,64}$/.test(worker)) begin(worker); else byId("progress").textContent =
      "A name may hold letters, digits and . _ - @ only, 64 at most.";
  });
  byId("worker").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); byId("begin").click(); }
  });
  document.addEventListener("keydown", (event) => {
    if (!state || event.ctrlKey || event.altKey || event.metaKey || event.target.id === "worker") return;
    if (event.key === "n" && !byId("next").disabled && current()) move(1);
    else if (event.key === "p") move(-1);
    else if (event.key === "u") undo();
    else if ("123".includes(event.key) && current()) {
      const open = task.questions.find((q) => q.answers.length === 3 && !(q.name in answersOf(current())));
      if (open) { give(open.name, open.answers[Number(event.key) - 1].value); drawQuestions(); }
    }
  });

  if (isHit) {
    const crowd = element("script", { src: "https://assets.crowd.aws/crowd-html-elements.js" });
    document.head.append(crowd);
    byId("send-note").hidden = false;
    byId("download").hidden = true;
    begin(parameters.get("workerId") ?? "preview");
  } else {
    byId("start").hidden = false;
    byId("progress").textContent = `${task.items.length} pictures`;
  }
})();
