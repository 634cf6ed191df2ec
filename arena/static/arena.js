"use strict";
// The page of a vote. An answer counts when the server has acknowledged it; until then nothing else can be answered.
const byId = (id) => document.getElementById(id);
const csrf = document.querySelector("meta[name=csrf]").content;
const keys = { ArrowLeft: "a", ArrowRight: "b", ArrowDown: "tie", b: "both_bad", s: "skip" };
const words = { a: "Left", b: "Right", tie: "Tie", both_bad: "Both bad", skip: "Skipped" };
const buttons = [...document.querySelectorAll("#answers button")];
let shown = null;
let busy = true;

function say(text, trouble = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("trouble", trouble);
}

function setBusy(value) {
  busy = value;
  for (const button of buttons) button.disabled = value || (button.id === "undo" && !shown.undo);
}

async function load(image, name) {
  const address = `image/${name}`;
  if (image.getAttribute("src") !== address) {
    image.classList.add("loading"); // or the last pair's image would stand beside this one's
    image.src = address;
  }
  await image.decode();
  image.classList.remove("loading");
}

async function show(state, before) {
  shown = state;
  document.body.classList.toggle("done", state.done);
  byId("progress").max = state.total;
  byId("progress").value = state.number;
  byId("count").textContent = `${state.number} of ${state.total}`;
  if (state.done) {
    byId("question").textContent = "That was all. Thank you!";
  } else {
    byId("prompt").textContent = state.prompt;
    byId("question").textContent = state.steps > 1 ? `${state.step}/${state.steps} ${state.text}` : state.text;
    say(before);
    try {
      await Promise.all(["left", "right"].map((side, place) => load(byId(side), state.images[place])));
    } catch {
      return say("An image can't be loaded. Load the page again.", true);
    }
    for (const name of state.next) new Image().src = `image/${name}`;
  }
  say(before);
  setBusy(false);
}

async function ask(path, said) {
  const options = said && {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF": csrf },
    body: JSON.stringify(said),
  };
  for (let wait = 1; ; wait = Math.min(2 * wait, 30)) {
    try {
      const answer = await fetch(path, options);
      if (answer.ok) return await answer.json();
      if (answer.status < 500) {
        const { error } = await answer.json().catch(() => ({ error: answer.statusText }));
        throw new RangeError(error);
      }
    } catch (error) {
      if (error instanceof RangeError) throw error;
    }
    say(`Not saved yet: the server doesn't answer. Trying again in ${wait} s.`, true);
    await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
  }
}

async function change(path, said, before) {
  if (busy) return;
  setBusy(true);
  try {
    await show(await ask(path, said), before);
  } catch (error) {
    say(`Not saved: ${error.message}. Load the page again.`, true);
  }
}

function answer(value) {
  if (!shown.done) change("vote", { task: shown.task, question: shown.question, answer: value }, `${words[value]}, saved.`);
}

function undo() {
  if (shown.undo) change("undo", { vote: shown.undo }, "Taken back.");
}

for (const button of buttons) {
  button.addEventListener("click", () => (button.id === "undo" ? undo() : answer(button.dataset.answer)));
}
document.addEventListener("keydown", (event) => {
  if (busy || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "u") undo();
  else if (key in keys) answer(keys[key]);
  else return;
  event.preventDefault();
});
ask("state").then((state) => show(state, ""), (error) => say(`${error.message}`, true));
