"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const at = (id) => document.getElementById(id);
  const stage = at("stage");
  document.documentElement.style.setProperty("--aspect", String(study.size[1] / study.size[0]));

  // ---- the answers, and the browser's storage, which may be denied ----
  const shelf = `imagpose-user-study-${study.pack}`;
  let kept = true;
  const read = () => {
    try { return JSON.parse(localStorage.getItem(shelf)); } catch { return null; }
  };
  const keep = () => {
    try { localStorage.setItem(shelf, JSON.stringify(state)); } catch { kept = false; }
  };
  const fresh = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return { session: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""), answers: [], begun: false };
  };

  // ---- an order of one's own, repeatable from the session's name: sfc32 (Doty-Humphrey, PractRand) ----
  const orderOf = (session) => {
    let [a, b, c, d] = [0, 8, 16, 24].map((i) => parseInt(session.slice(i, i + 8), 16) | 0);
    const next = () => {
      const t = (((a + b) | 0) + d) | 0;
      d = (d + 1) | 0; a = b ^ (b >>> 9); b = (c + (c << 3)) | 0; c = ((c << 21) | (c >>> 11)) + t | 0;
      return (t >>> 0) / 4294967296;
    };
    for (let i = 0; i < 12; i++) next();
    const shuffled = (list) => {
      const copy = list.slice();
      for (let i = copy.length - 1; i > 0; i--) {
        const j = Math.floor(next() * (i + 1));
        [copy[i], copy[j]] = [copy[j], copy[i]];
      }
      return copy;
    };
    const steps = [];
    shuffled(study.parts).forEach((part, number) => {
      for (const [id, picture] of shuffled(part)) steps.push({ id, picture, part: number + 1, values: ["real", "generated"] });
    });
    for (const [id, sources, pose, choices] of shuffled(study.best)) {
      const mixed = shuffled(choices);
      steps.push({ id, sources, pose, choices: mixed, values: mixed.map(([mark]) => mark), part: study.parts.length + 1 });
    }
    return steps;
  };

  const fits = (found) => {
    if (!found || !/^[0-9a-f]{32}$/.test(found.session) || !Array.isArray(found.answers)) return false;
    const order = orderOf(found.session);
    return found.answers.length <= order.length &&
      found.answers.every(([id, value], i) => order[i].id === id && order[i].values.includes(value));
  };
  const found = read();
  let state;
  try { state = fits(found) ? found : fresh(); } catch { state = fresh(); }
  let steps = orderOf(state.session);
  let stopped = false;
  let told = false; // what 'which is best?' asks
  keep();

  // ---- building blocks ----
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const photo = (data, alt, name = "") =>
    make("img", { src: `data:image/jpeg;base64,${data}`, alt, className: name, draggable: false });
  const button = (text, act, name = "plain") => make("button", { type: "button", className: name, onclick: act }, text);
  const parts = study.parts.length + (study.best.length ? 1 : 0);

  // ---- screens ----
  const intro = () => {
    const best = study.best.length
      ? "At the end you see pictures that several programs made of one person in one pose, and choose the best."
      : "";
    const minutes = Math.max(1, Math.round(steps.length * 4 / 60));
    stage.replaceChildren(make("div", { className: "text" },
      make("h1", {}, "Real or generated?"),
      make("p", {}, "You will see small pictures of people, one at a time. Some are real camera pictures, some were made by " +
        `a computer. Say which is which, by your first impression. ${best}`),
      make("p", {}, `${steps.length} questions, about ${minutes} ${minutes === 1 ? "minute" : "minutes"}. You can undo an ` +
        "answer, and stop at any time."),
      make("p", { className: "quiet" }, "Nothing is sent anywhere and nobody is asked for a name. At the end you get a small file with " +
        "your answers, which you give to whoever gave you this page."),
      make("p", { className: "quiet keys" }, "By keyboard: ", make("kbd", {}, "1"), " real, ", make("kbd", {}, "2"),
        " generated (or the arrows), ", make("kbd", {}, "⌫"), " undo."),
      make("div", { className: "row" }, button("Begin", begin, "main"))));
    stage.querySelector(".main").focus();
  };

  const judging = (step) => {
    const answer = (value, text, key, shortcuts) => {
      const made = button("", () => give(value));
      made.append(`${text} `, make("kbd", {}, key));
      made.setAttribute("aria-keyshortcuts", shortcuts);
      return made;
    };
    stage.replaceChildren(
      make("h2", {}, "Real or generated?"),
      photo(step.picture, `Picture ${state.answers.length + 1}`, "judged"),
      make("div", { className: "answers" },
        answer("real", "Real", "1", "1 ArrowLeft"), answer("generated", "Generated", "2", "2 ArrowRight")));
  };

  const telling = () => {
    stage.replaceChildren(make("div", { className: "text" },
      make("h1", {}, "Now: which is best?"),
      make("p", {}, "You see a person and a pose, drawn as a stick figure. Below are pictures that programs made of this person in this " +
        "pose. Choose the best one: it shows this person, in this pose, and looks like a real picture."),
      make("p", { className: "quiet keys" }, "By keyboard: ", make("kbd", {}, "1"), " to ",
        make("kbd", {}, String(study.best[0][3].length)), ", or the arrows and ", make("kbd", {}, "Enter"), "."),
      make("div", { className: "row" }, button("Continue", () => { told = true; show(); }, "main"))));
    stage.querySelector(".main").focus();
  };

  const choosing = (step) => {
    const figure = (data, text) => make("figure", {}, photo(data, text), make("figcaption", {}, text));
    const choices = make("div", { className: "choices" });
    const count = step.choices.length;
    const columns = innerWidth < 560 && count > 3 ? Math.ceil(count / 2) : count;
    const across = Math.min(columns, innerWidth < 560 ? 3 : 5);
    choices.style.setProperty("--columns", String(across));
    choices.style.setProperty("--rows", String(Math.ceil(count / across)));
    choices.style.maxWidth = `${across * 190}px`;
    step.choices.forEach(([mark, picture], i) => {
      const made = button("", () => give(mark), "choice");
      made.value = mark;
      made.setAttribute("aria-keyshortcuts", String(i + 1));
      made.append(photo(picture, `Choice ${i + 1}`), make("kbd", {}, String(i + 1)));
      choices.append(made);
    });
    stage.replaceChildren(
      make("h2", {}, "Which shows this person best in this pose?"),
      make("div", { className: "given" },
        ...step.sources.map((data) => figure(data, "the person")), figure(step.pose, "the pose")),
      choices);
  };

  const ending = () => {
    const all = state.answers.length === steps.length;
    const area = make("textarea", { readOnly: true, value: exported(), spellcheck: false });
    area.setAttribute("aria-label", "Your answers as text");
    const said = make("span", { className: "quiet", role: "status" });
    const copy = button("Copy as text", async () => {
      try {
        await navigator.clipboard.writeText(area.value);
        said.textContent = "Copied.";
      } catch {
        details.open = true;
        area.select();
        said.textContent = document.execCommand("copy") ? "Copied." : "Copy the text below.";
      }
    });
    const details = make("details", {}, make("summary", {}, "Show the answers as text"), area);
    stage.replaceChildren(make("div", { className: "text" },
      make("h1", {}, all ? "Thank you!" : "Stopped"),
      make("p", {}, `${state.answers.length} of ${steps.length} questions are answered. Save the file and give it to whoever ` +
        "gave you this page. It holds your answers and nothing about you."),
      make("div", { className: "row" },
        button("Save answers", save, "main"), copy,
        ...(all ? [] : [button("Go on", () => { stopped = false; show(); })])),
      said, details,
      make("p", { className: "quiet" }, "Somebody else on this device? ",
        button("Start anew", () => {
          if (!confirm("Have the answers been saved? They are deleted here.")) return;
          state = fresh(); steps = orderOf(state.session); stopped = told = false; keep(); show();
        }))));
    stage.querySelector(".main").focus();
  };

  const show = () => {
    const done = state.answers.length;
    const step = steps[done];
    const asking = state.begun && !stopped && step;
    stage.dataset.item = asking ? step.id : "";
    at("part").textContent = asking ? `Part ${step.part} of ${parts}` : "";
    at("count").textContent = state.begun ? `${done} of ${steps.length}` : "";
    at("progress").max = steps.length;
    at("progress").value = done;
    at("undo").hidden = !state.begun || !done;
    at("stop").hidden = !asking;
    at("stored").textContent = kept ? "" : "This browser keeps nothing: answer in one go.";
    if (!state.begun) intro();
    else if (!asking) ending();
    else if (step.picture) judging(step);
    else if (told || (done && !steps[done - 1].picture)) choosing(step);
    else telling();
    if (asking && document.activeElement === document.body) stage.focus({ preventScroll: true });
    scrollTo(0, 0);
  };

  // ---- deeds ----
  const begin = () => { state.begun = true; keep(); show(); };
  const give = (value) => { state.answers.push([steps[state.answers.length].id, value]); keep(); show(); };
  const undo = () => {
    if (!state.begun || !state.answers.length) return;
    state.answers.pop();
    stopped = false;
    keep();
    show();
  };
  const exported = () => JSON.stringify({
    format: study.format, version: study.version, pack: study.pack, session: state.session, answers: state.answers,
  });
  const save = () => {
    const link = make("a", {
      href: URL.createObjectURL(new Blob([exported() + "\n"], { type: "application/json" })),
      download: `user-study-${study.pack.slice(0, 8)}-${state.session.slice(0, 8)}.json`,
    });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const move = (by) => {
    const all = Array.from(stage.querySelectorAll(".choice"));
    const here = all.indexOf(document.activeElement);
    const there = here < 0 ? (by > 0 ? 0 : all.length - 1) : (here + by + all.length) % all.length;
    all[there].focus();
  };

  at("undo").onclick = undo;
  at("stop").onclick = () => { stopped = true; show(); };
  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "TEXTAREA") return;
    const step = steps[state.answers.length];
    const judged = stage.querySelector(".judged");
    const choices = stage.querySelectorAll(".choice");
    if (event.key === "Backspace" || event.key === "u") undo();
    else if (judged && (event.key === "1" || event.key === "ArrowLeft")) give("real");
    else if (judged && (event.key === "2" || event.key === "ArrowRight")) give("generated");
    else if (choices.length && /^[1-9]$/.test(event.key)) {
      if (Number(event.key) > choices.length) return;
      give(step.choices[Number(event.key) - 1][0]);
    } else if (choices.length && (event.key === "ArrowLeft" || event.key === "ArrowUp")) move(-1);
    else if (choices.length && (event.key === "ArrowRight" || event.key === "ArrowDown")) move(1);
    else return;
    event.preventDefault();
  });
  show();
})();
