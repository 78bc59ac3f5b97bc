// Bytes, hashes, signatures, Merkle paths, and the forms that are signed. See docs/passport.md.

class Wrong extends Error {}

const UTF8 = new TextEncoder();

const must = (holds, why) => {
  if (!holds) throw new Wrong(why);
};

// --- bytes ---------------------------------------------------------------------------------------------------
const joined = (...parts) => {
  const bytes = parts.map((part) => (typeof part === "string" ? UTF8.encode(part) : part));
  const all = new Uint8Array(bytes.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of bytes) {
    all.set(part, offset);
    offset += part.length;
  }
  return all;
};

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

const fromHex = (text) => {
  must(typeof text === "string" && /^([0-9a-f]{2})*$/.test(text), "not lower-case hex");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
};

const same = (one, other) => one.length === other.length && one.every((byte, n) => byte === other[n]);

const base64 = (text) => {
  let bytes;
  try {
    bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  } catch {
    throw new Wrong("not base64");
  }
  // One value has one spelling: another one would be another text with the same signature.
  must(btoa(String.fromCharCode(...bytes)) === text, "not base64 in its one spelling");
  return bytes;
};

const base64url = (text, length) => {
  must(typeof text === "string" && /^[A-Za-z0-9_-]*$/.test(text), "not base64url");
  const padded = text.replaceAll("-", "+").replaceAll("_", "/") + "=".repeat((4 - (text.length % 4)) % 4);
  const bytes = base64(padded);
  must(bytes.length === length, `expected ${length} bytes in base64url`);
  return bytes;
};

const toBase64url = (bytes) =>
  btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

// --- hashes and signatures -----------------------------------------------------------------------------------
const digest = async (name, ...parts) => new Uint8Array(await crypto.subtle.digest(name, joined(...parts)));
const sha256 = (...parts) => digest("SHA-256", ...parts);

// Under these keys one signature fits many messages. The sign bit of the encoding does not matter.
const SMALL_ORDER = [
  "00".repeat(32),
  `01${"00".repeat(31)}`,
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  `ec${"ff".repeat(30)}7f`,
  `ed${"ff".repeat(30)}7f`,
  `ee${"ff".repeat(30)}7f`,
];

const isSafeKey = (key) => {
  const positive = Uint8Array.from(key);
  positive[31] &= 0x7f;
  return !SMALL_ORDER.includes(hex(positive));
};

const isSigned = async (key, signature, message) => {
  if (!isSafeKey(key) || signature.length !== 64) return false;
  try {
    const imported = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
    return await crypto.subtle.verify({ name: "Ed25519" }, imported, signature, message);
  } catch (error) {
    if (error.name === "NotSupportedError") throw error;
    return false;
  }
};

const uuid5 = async (namespace, name) => {
  const bytes = (await digest("SHA-1", fromHex(namespace.replaceAll("-", "")), name)).slice(0, 16);
  bytes[6] = (bytes[6] & 0x0f) | 0x50;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return hex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
};

const NAMESPACE = uuid5("6ba7b811-9dad-11d1-80b4-00c04fd430c8", "coordinator");
const streamOf = async (...names) => uuid5(await NAMESPACE, names.join("\n"));

// --- Merkle trees --------------------------------------------------------------------------------------------
const rootOfPath = async (leaf, index, size, path) => {
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(size) || index < 0 || index >= size) return null;
  let [place, last, root] = [BigInt(index), BigInt(size) - 1n, leaf];
  for (const sibling of path.map(fromHex)) {
    if (last === 0n || sibling.length !== 32) return null;
    if ((place & 1n) === 1n || place === last) {
      root = await sha256(Uint8Array.of(1), sibling, root);
      while ((place & 1n) === 0n && place !== 0n) [place, last] = [place >> 1n, last >> 1n];
    } else {
      root = await sha256(Uint8Array.of(1), root, sibling);
    }
    [place, last] = [place >> 1n, last >> 1n];
  }
  return last === 0n ? root : null;
};

const leafHash = async (event) => {
  let state = UTF8.encode(event.state);
  if (state.length > 60_000) state = UTF8.encode(`sha256 ${hex(await sha256(state))} ${state.length}`);
  else must(event.state.startsWith("{"), "a stored state begins with a brace");
  const { position, stream, version, topic, metadata } = event;
  for (const part of [stream, topic, metadata, event.state]) must(!part.includes("\n"), "a leaf has seven lines");
  const lines = `coordinator leaf 1\n${position}\n${stream}\n${version}\n${topic}\n${metadata}\n`;
  return sha256(Uint8Array.of(0), lines, state, "\n");
};

// --- JSON ----------------------------------------------------------------------------------------------------
const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\]:]/g;

// JSON.parse, which takes the last of two members with one name, where another reader may take the first.
const parsed = (text) => {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Wrong("not JSON");
  }
  const open = [];
  let before = "";
  for (const [token] of text.matchAll(TOKENS)) {
    if (token === "{" || token === "[") open.push(new Set());
    else if (token === "}" || token === "]") open.pop();
    else if (token === ":") {
      const name = JSON.parse(before);
      must(!open.at(-1).has(name), "an object has a member twice");
      open.at(-1).add(name);
    }
    before = token;
  }
  return value;
};

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const written = (value, text, keepsNull) => {
  if (Array.isArray(value)) return `[${value.map((one) => written(one, text, keepsNull)).join(",")}]`;
  if (!isObject(value)) return typeof value === "string" ? text(value) : JSON.stringify(value);
  const names = Object.keys(value).filter((name) => keepsNull || value[name] !== null);
  const members = names.sort().map((name) => `${text(name)}:${written(value[name], text, keepsNull)}`);
  return `{${members.join(",")}}`;
};

const ascii = (text) =>
  JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

const signedForm = (value) => written(value, ascii, false);
const canonicalJson = (value) => written(value, JSON.stringify, true); // RFC 8785
