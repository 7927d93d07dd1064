"use strict";
// One task: a list of pictures and three questions about each. Nothing is loaded and nothing is sent by this page; the
// answers lie in localStorage until they are saved as a file, or handed in where the page runs as a HIT. Mechanical
// Turk takes a dollar sign before a brace for a variable of its own, so no template literal may stand here.
(() => {
  const byId = (id) => document.getElementById(id);
  const bytes = Uint8Array.from(atob(byId("task").textContent.trim()), (c) => c.charCodeAt(0));
  const task = JSON.parse(new TextDecoder().decode(bytes));
  const parameters = new URLSearchParams(location.search);
  const isHit = parameters.has("assignmentId");
  const preview = parameters.get("assignmentId") === "ASSIGNMENT_ID_NOT_AVAILABLE";
  const memory = new Map(); // what localStorage would hold, where there is none
  let kept = true; // whether this browser keeps what it is given
  let sent = false;
  const owing = new Set(); // workers whose answers would be lost, or forgotten, if the page were left now
  let state = null; // {worker, started, order, at, saved, answers: {item: {question: {answer, time}}}, log}

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const write = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };
  const warn = (text) => { byId("warning").hidden = false; write("warning", text); };

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
  const same = (i, j) => task.items[i].guide === task.items[j].guide && task.items[i].result === task.items[j].result;
  const shuffled = (text) => {
    const order = [...task.items.keys()], random = seeded(text);
    for (let attempt = 0; attempt < 50; attempt++) { // no repeat right after its first showing, where that can be
      for (let i = order.length - 1; i > 0; i--) {
        const j = Math.floor(random() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
      if (order.every((one, i) => i === 0 || !same(one, order[i - 1]))) break;
    }
    return order;
  };

  const key = (worker) => ["d3s-votes", task.task_id, task.key, worker].join("/");
  const keep = (name, text) => {
    memory.set(name, text);
    try { localStorage.setItem(name, text); kept = true; } catch { kept = false; }
    if (kept || preview) return;
    warn("This browser keeps nothing: do not close or reload the page before you have " +
      (isHit ? "handed the answers in." : "saved the answers as a file."));
  };
  const lookUp = (name) => {
    try { return localStorage.getItem(name) ?? memory.get(name); } catch { return memory.get(name); }
  };
  const rememberName = (worker) => {
    try { sessionStorage.setItem("d3s-worker/" + task.key, worker); } catch { /* the name is asked for again */ }
  };
  const rememberedName = () => {
    try { return sessionStorage.getItem("d3s-worker/" + task.key); } catch { return null; }
  };
  const isSound = (found, worker) => {
    const ids = new Set(task.items.map((item) => item.item_id));
    const valid = (name, given) =>
      task.questions.some((q) => q.name === name && q.answers.some((answer) => answer.value === given?.answer));
    return found?.worker === worker && Array.isArray(found.order) && Array.isArray(found.log) &&
      found.order.length === ids.size && task.items.every((_, i) => found.order.includes(i)) &&
      Number.isInteger(found.at) && found.at >= 0 && found.at <= ids.size &&
      Object.entries(found.answers).every(([item, given]) =>
        ids.has(item) && Object.entries(given).every(([name, one]) => valid(name, one)));
  };
  const stored = (worker) => {
    const text = lookUp(key(worker));
    if (!text) return null;
    try {
      const found = JSON.parse(text);
      if (isSound(found, worker)) return found;
    } catch { /* reported below */ }
    keep(key(worker) + "/damaged", text);
    warn("The answers kept here for this name are damaged, so it begins anew; they are put aside.");
    return null;
  };
  const record = () => ({
    format: "d3s-votes-1", task_id: task.task_id, worker: state.worker, started: state.started,
    order: state.order.map((i) => task.items[i].item_id),
    answers: Object.entries(state.answers).flatMap(([item, given]) =>
      Object.entries(given).map(([question, { answer, time }]) => ({ item_id: item, question, answer, time }))),
  });
  const store = () => {
    if (preview) return;
    keep(key(state.worker), JSON.stringify(state));
    if (!state.saved && (!kept || (!isHit && allDone()))) owing.add(state.worker); else owing.delete(state.worker);
    byId("answers").value = JSON.stringify(record());
  };

  const answersOf = (item) => state.answers[item.item_id] ?? {};
  const openQuestions = (item) => task.questions.filter((question) => !(question.name in answersOf(item)));
  const isDone = (item) => openQuestions(item).length === 0;
  const allDone = () => task.items.every(isDone);
  const current = () => task.items[state.order[state.at]];

  const begin = (worker) => {
    state = stored(worker) ?? {
      worker, started: new Date().toISOString(), order: shuffled(task.task_id + "/" + worker), at: 0, saved: true,
      answers: {}, log: [],
    };
    if (!isHit) rememberName(worker);
    byId("start").hidden = true;
    byId("help").open = preview;
    byId("local").hidden = isHit;
    write("name", worker);
    write("saved", "");
    store();
    show();
  };
  const askForName = () => {
    state = null;
    for (const id of ["item", "end", "local"]) byId(id).hidden = true;
    byId("start").hidden = false;
    byId("who").hidden = isHit;
    byId("help").open = true;
    byId("worker").value = "";
    write("progress", task.items.length + " pictures");
    Object.assign(byId("bar"), { max: task.items.length, value: 0 });
  };

  const give = (question, answer) => {
    const item = current().item_id;
    state.log.push([item, question, answersOf(current())[question] ?? null]);
    (state.answers[item] ??= {})[question] = { answer, time: new Date().toISOString() };
    state.saved = false;
    store();
    refresh();
  };
  const undo = () => {
    const last = state.log.pop();
    if (!last) return;
    const [item, question, before] = last;
    if (before) state.answers[item][question] = { ...before, time: new Date().toISOString() };
    else delete state.answers[item]?.[question];
    state.saved = false;
    const here = current()?.item_id === item;
    state.at = state.order.findIndex((i) => task.items[i].item_id === item);
    store();
    if (here) refresh(); else show();
    write("note", "Taken back: " + task.questions.find((one) => one.name === question).text);
    if (document.activeElement === document.body) byId("item-title").focus();
  };
  const move = (step) => {
    const at = Math.min(Math.max(state.at + step, 0), state.order.length);
    if (at === state.at) return;
    state.at = at;
    store();
    show();
  };

  const picture = (place, alt) => element("img", { src: task.pictures[place], alt });
  const captioned = (place, alt, caption) =>
    element("figure", {}, picture(place, alt), element("figcaption", { textContent: caption }));
  const drawWorked = () => {
    byId("worked").hidden = task.worked.length === 0;
    byId("worked-list").replaceChildren(...task.worked.map((example, i) => element("li", {},
      element("div", { className: "pair" },
        captioned(example.guide, "Guide of example " + (i + 1) + ": " + example.class_name,
          "guide: " + example.class_name),
        captioned(example.result, "Result of example " + (i + 1), "result")),
      element("dl", {}, ...task.questions.flatMap((question) => [
        element("dt", { textContent: question.short }),
        element("dd", { textContent: example.answers[question.name] })])),
      element("p", { textContent: example.why }))));
  };
  const drawQuestions = () => {
    byId("questions").replaceChildren(...task.questions.map((question) =>
      element("fieldset", { disabled: preview },
        element("legend", { textContent: question.text }),
        element("div", { className: "choices" }, ...question.answers.map((answer) => {
          const input = element("input", { type: "radio", name: question.name, value: answer.value });
          input.addEventListener("change", () => give(question.name, answer.value));
          return element("label", {}, input, element("span", { textContent: answer.text }));
        })))));
  };
  const refresh = () => {
    const done = task.items.filter(isDone).length;
    write("progress", done + " of " + task.items.length + " pictures answered");
    Object.assign(byId("bar"), { max: task.items.length, value: done });
    byId("back").disabled = state.at === 0;
    byId("undo").disabled = byId("end-undo").disabled = state.log.length === 0;
    const here = current();
    if (here) {
      for (const input of byId("questions").querySelectorAll("input")) {
        input.checked = answersOf(here)[input.name]?.answer === input.value;
      }
      const open = openQuestions(here).map((question) => question.short);
      write("note", preview ? "This is a preview: accept the HIT to answer."
        : open.length ? "Still open: " + open.join(", ") : "All three answered: go on with Next.");
    } else {
      const open = task.items.length - done;
      write("end-title", open ? "The end, but not all is answered." : "All answered. Thank you.");
      write("end-note", open ? "Pictures still open: " + open : isHit ? "Press Submit below to hand them in."
        : state.saved ? "Saved. Send the file to whoever gave you this page."
          : "Save the answers as a file below, and send it to whoever gave you this page.");
      write("review", open ? "Go to the first open picture" : "Look through them again");
    }
    byId("next").disabled = !here || preview || !isDone(here);
    byId("submit").hidden = !isHit || preview || done < task.items.length;
  };
  const show = () => {
    const item = current();
    byId("item").hidden = !item;
    byId("end").hidden = Boolean(item);
    if (item) {
      write("item-title", "Picture " + (state.at + 1) + " of " + task.items.length + ": " + item.class_name);
      write("gloss", item.gloss);
      byId("guide").src = task.pictures[item.guide];
      byId("result").src = task.pictures[item.result];
      byId("class-examples").hidden = item.examples.length === 0;
      write("class-title", "Examples of " + item.class_name + ":");
      byId("examples").replaceChildren(...item.examples.map((place, i) => picture(place, "example " + (i + 1))));
      drawQuestions();
    } else byId("questions").replaceChildren();
    refresh();
    byId(item ? "item-title" : "end-title").focus();
    if (item) byId("item-title").scrollIntoView();
  };

  byId("back").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("undo").addEventListener("click", undo);
  byId("end-undo").addEventListener("click", undo);
  byId("review").addEventListener("click", () => {
    const open = state.order.findIndex((i) => !isDone(task.items[i]));
    state.at = Math.max(open, 0);
    store();
    show();
  });
  byId("download").addEventListener("click", () => {
    const blob = new Blob([JSON.stringify(record(), null, 1)], { type: "application/json" });
    const file = "votes-" + task.task_id + "-" + state.worker + ".json";
    const link = element("a", { href: URL.createObjectURL(blob), download: file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    state.saved = true;
    store();
    refresh();
    write("saved", "Saved as " + file + (allDone() ? "" : ", so far"));
  });
  byId("other").addEventListener("click", () => { askForName(); byId("worker").focus(); });
  byId("begin").addEventListener("click", () => {
    const worker = byId("worker").value.trim();
    const fits = isHit || /^[\p{L}\p{M}\p{N}_.@-]{1,64}$/u.test(worker);
    write("worker-problem", fits ? "" : "A name may hold letters, digits and . _ - @ only, 1 to 64 of them.");
    byId("worker").setAttribute("aria-invalid", String(!fits));
    if (fits) begin(isHit ? hitWorker : worker); else byId("worker").focus();
  });
  byId("worker").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); byId("begin").click(); }
  });
  document.addEventListener("keydown", (event) => {
    if (!state || preview || !byId("keys").checked || event.target.id === "worker") return;
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
    if (event.key === "n" && !byId("next").disabled) move(1);
    else if (event.key === "p") move(-1);
    else if (event.key === "u") undo();
    else if (["1", "2", "3"].includes(event.key) && current()) {
      const open = openQuestions(current()).find((question) => question.answers.length === 3);
      if (!open) return;
      give(open.name, open.answers[Number(event.key) - 1].value);
      const left = openQuestions(current())[0]; // the arrow keys go on where an answer is lacking
      if (left) byId("questions").querySelector("input[name=" + left.name + "]").focus();
    }
  });
  window.addEventListener("storage", (event) => { // the same worker in another tab
    if (!state || preview || event.key !== key(state.worker) || !event.newValue) return;
    const found = stored(state.worker);
    if (!found) return;
    state = { ...found, at: state.at };
    byId("answers").value = JSON.stringify(record());
    refresh();
  });
  window.addEventListener("beforeunload", (event) => {
    if (owing.size && !sent) event.preventDefault();
  });
  document.addEventListener("submit", (event) => {
    if (!state || preview || !allDone()) event.preventDefault(); else sent = true;
  }, true);

  // Without the crowd elements (blocked, or not to be reached) the HIT is handed in by a form of one's own.
  const plainSubmit = () => {
    if (customElements.get("crowd-form")) return;
    const to = parameters.get("turkSubmitTo") ?? "";
    if (!/^https:\/\/(www|workersandbox)\.mturk\.com\/?$/.test(to)) {
      warn("The answers cannot be handed in from here: Mechanical Turk's elements are missing. " +
        "They stay in this page.");
      return;
    }
    const form = element("form", { method: "post", action: to.replace(/\/$/, "") + "/mturk/externalSubmit" },
      element("input", { type: "hidden", name: "assignmentId", value: parameters.get("assignmentId") }),
      element("button", { type: "submit", textContent: "Submit" }));
    form.append(byId("answers"));
    byId("submit").replaceChildren(form);
  };
  const hitWorker = parameters.get("workerId") ?? parameters.get("assignmentId");

  drawWorked();
  askForName();
  if (isHit) {
    const crowd = element("script", { src: "https://assets.crowd.aws/crowd-html-elements.js" });
    crowd.addEventListener("error", plainSubmit);
    crowd.addEventListener("load", () => setTimeout(plainSubmit, 5000));
    document.head.append(crowd);
    if (preview || lookUp(key(hitWorker))) begin(hitWorker);
  } else if (rememberedName() && lookUp(key(rememberedName()))) begin(rememberedName());
})();
