// The page: files and keys in, checks and words out. Everything shown is text, never markup.

const MOST_BYTES = 64 * 1024 * 1024;
const element = (id) => document.getElementById(id);
const state = { text: null, name: "", run: 0 };

const say = (kind, words) => {
  element("verdict").className = kind;
  element("verdict").textContent = words;
};

const list = (id, sentences) =>
  element(id).replaceChildren(
    ...sentences.map((sentence) => {
      const item = document.createElement("li");
      item.textContent = sentence;
      return item;
    }),
  );

const checkItem = ({ name, ok, detail }) => {
  const item = document.createElement("li");
  item.className = ok ? "good" : "bad";
  item.dataset.check = name;
  const mark = document.createElement("span");
  mark.className = "mark";
  mark.textContent = ok ? "✓ good: " : "✗ wrong: ";
  const detailLine = document.createElement("span");
  detailLine.className = "detail";
  detailLine.textContent = detail;
  item.append(mark, `${name}: ${CHECKS[name]}`, detailLine);
  return item;
};

const documentIn = async (id) => {
  const [file] = element(id).files;
  return file === undefined ? undefined : parsed(await readText(file));
};

const readText = async (file) => {
  must(file.size <= MOST_BYTES, `${file.name}: more than ${MOST_BYTES} bytes`);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Wrong(`${file.name}: not UTF-8`);
  }
};

const hasEd25519 = async () => {
  if (globalThis.crypto?.subtle === undefined) {
    throw new Wrong("this browser has no cryptography here: open the page from a file, or over https");
  }
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32).fill(1, 0, 1), { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") throw new Wrong("this browser has no Ed25519: use a newer one");
  }
};

const judged = (verification) => {
  const failed = verification.checks.filter((check) => !check.ok).length;
  if (failed > 0) return ["bad", `Do not rely on this passport: ${failed} of its checks failed.`];
  if (verification.trust.coordinator === null) {
    return ["open", "The passport is whole, but anybody may have made it: name a key that you trust."];
  }
  return ["good", "The passport is verified with the keys that you named."];
};

const update = async () => {
  if (state.text === null) return;
  const run = ++state.run;
  say("", `Checking ${state.name} …`);
  let verification;
  try {
    await hasEd25519();
    const trust = await readTrust({
      trusted: element("trusted").value,
      witnesses: element("witnesses").value,
      miners: element("miners").value,
      quorum: element("quorum").value,
    });
    const given = { payload: await documentIn("payload"), result: await documentIn("result") };
    verification = await verify(readPassport(state.text), trust, given);
  } catch (error) {
    if (run !== state.run) return;
    element("found").hidden = true;
    say("bad", `Not checked: ${error.message}`);
    return;
  }
  if (run !== state.run) return; // a later change is being checked
  element("checks").replaceChildren(...verification.checks.map(checkItem));
  list("proven", provenBy(verification));
  element("proven-part").hidden = !verification.ok;
  list("unproven", notProven(verification));
  element("found").hidden = false;
  say(...judged(verification));
};

const take = async (file) => {
  if (file === undefined) return;
  const run = ++state.run;
  state.text = null; // what the page shows is of this file from here on
  element("found").hidden = true;
  element("name").textContent = file.name;
  say("", `Reading ${file.name} …`);
  try {
    const text = await readText(file);
    if (run !== state.run) return;
    Object.assign(state, { text, name: file.name });
  } catch (error) {
    if (run !== state.run) return;
    say("bad", `Not checked: ${error.message}`);
    return;
  }
  await update();
};

element("file").addEventListener("change", (event) => take(event.target.files[0]));
// Otherwise a browser does not tell that the same file was chosen again, after a change of it.
element("file").addEventListener("click", (event) => (event.target.value = ""));
element("keys").addEventListener("input", update);
element("keys").addEventListener("submit", (event) => event.preventDefault());
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // a browser would open the file in place of the page
    element("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
