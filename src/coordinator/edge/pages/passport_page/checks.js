// The checks of a passport, by the steps of docs/passport.md. Each ends good or bad, with words.

const FORMAT = "coordinator passport 1";
const PASSPORT_MEMBERS = ["format", "job_id", "events", "relied_on", "receipt", "checkpoint", "log_key"];
const EVENT_MEMBERS = ["position", "stream", "version", "topic", "metadata", "state", "index", "path"];
const METADATA =
  /^\{"command_id":"(?:[^"\\]|\\.)*","traceparent":"(?:[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})?"\}$/;
const [NOTE, COSIGNATURE] = [1, 4];

const CHECKS = {
  checkpoint: "the log's key signed the checkpoint",
  witnesses: "enough witnesses signed it as well",
  inclusion: "the checkpoint's tree has each event",
  stream: "the job's events are all there, in their order",
  events: "each event is JSON with its metadata",
  history: "each event follows from those before it",
  miner_keys: "the miners' keys are those that you named",
  statement: "the miner signed the result",
  receipt: "the coordinator signed the receipt that the events give",
  payload: "the payload is the one whose digest is in the log",
  result: "the result is the one whose digest is in the log",
};

// --- what is given -------------------------------------------------------------------------------------------
const hasMembers = (value, names, more = []) =>
  isObject(value) &&
  names.every((name) => name in value) &&
  Object.keys(value).every((name) => names.includes(name) || more.includes(name));

const readPassport = (text) => {
  const passport = parsed(text);
  must(isObject(passport) && passport.format === FORMAT, `no passport: \`format\` is not ${FORMAT}`);
  must(hasMembers(passport, PASSPORT_MEMBERS, ["salts"]), "a member is missing, or unknown");
  const { events, relied_on: reliedOn } = passport;
  must(Array.isArray(events) && events.length > 0 && Array.isArray(reliedOn), "the passport has no events");
  for (const event of [...events, ...reliedOn]) {
    must(hasMembers(event, EVENT_MEMBERS), "an event has other members");
    const numbers = [event.position, event.version, event.index];
    must(numbers.every((one) => Number.isSafeInteger(one) && one >= 0), "positions and the like are whole numbers");
    const texts = [event.stream, event.topic, event.metadata, event.state, passport.checkpoint, passport.log_key];
    must(texts.every((one) => typeof one === "string") && Array.isArray(event.path), "an event has other types");
  }
  return passport;
};

const readVerifierKey = async (text, algorithm) => {
  const [name, hash, ...rest] = text.split("+");
  const material = base64(rest.join("+"));
  must(material.length === 33 && material[0] === algorithm, `${text}: not a key of this kind`);
  const expected = await keyHash(name, algorithm, material.slice(1));
  must(hex(expected) === hash, `${text}: its hash does not fit`);
  must(isSafeKey(material.slice(1)), `${text}: not safe to use`);
  return { name, key: material.slice(1), hash: expected };
};

const keyHash = async (name, algorithm, key) =>
  (await sha256(name, "\n", Uint8Array.of(algorithm), key)).slice(0, 4);

// Texts to keys; `coordinator` is null if no key is named. Throws Wrong.
const readTrust = async ({ trusted, witnesses, miners, quorum }) => {
  const words = (text) => text.split(/[\s,]+/).filter((word) => word !== "");
  const coordinator = [];
  for (const text of words(trusted)) {
    if (text.includes("+")) coordinator.push(await readVerifierKey(text, NOTE));
    else coordinator.push({ name: null, key: base64url(text, 32) });
    must(isSafeKey(coordinator.at(-1).key), `${text}: not safe to use`);
  }
  const cosigners = [];
  for (const text of words(witnesses)) cosigners.push(await readVerifierKey(text, COSIGNATURE));
  const minerKeys = words(miners).map((text) => {
    const at = text.indexOf("=");
    must(at > 0, `${text}: expected MINER=KEY`);
    base64url(text.slice(at + 1), 32);
    return [text.slice(0, at), text.slice(at + 1)];
  });
  const needed = Number(quorum);
  must(cosigners.length === 0 || (needed >= 1 && needed <= cosigners.length), "so many witnesses are not named");
  return {
    coordinator: coordinator.length > 0 ? coordinator : null,
    witnesses: cosigners,
    quorum: needed,
    miners: new Map(minerKeys),
  };
};

const readNote = (text) => {
  const end = text.lastIndexOf("\n\n");
  must(end > 0 && text.endsWith("\n"), "a checkpoint is a text, an empty line, and signatures");
  const signatures = text
    .slice(end + 2, -1)
    .split("\n")
    .map((line) => {
      const [dash, name, data, ...more] = line.split(" ");
      must(dash === "\u2014" && data !== undefined && more.length === 0, "a signature is a dash, a name, base64");
      const bytes = base64(data);
      return { name, hash: bytes.slice(0, 4), signature: bytes.slice(4) };
    });
  const signed = text.slice(0, end + 1);
  const [origin, size, root, ...rest] = signed.split("\n");
  must(/^(0|[1-9][0-9]{0,15})$/.test(size ?? "") && rest.at(-1) === "", "a checkpoint is origin, size and root");
  const hashed = base64(root ?? "");
  must(hashed.length === 32, "a root has 32 bytes");
  return { origin, size: Number(size), root: hashed, signed, signatures };
};

const signatureOf = (note, name, hash) =>
  note.signatures.find((one) => one.name === name && same(one.hash, hash))?.signature;

// --- the checks ----------------------------------------------------------------------------------------------
class Verification {
  constructor(passport, trust, given) {
    Object.assign(this, { passport, trust, given });
    const both = [...passport.events, ...passport.relied_on];
    this.sorted = both.sort((one, other) => one.position - other.position);
    this.cosigners = [];
    this.life = null;
    this.attestations = [];
  }

  async run() {
    const { trust, given } = this;
    const steps = ["checkpoint"];
    if (trust.witnesses.length > 0) steps.push("witnesses");
    steps.push("inclusion", "stream", "events", "history", "statement", "receipt");
    if (trust.miners.size > 0) steps.push("miner_keys");
    for (const kind of ["payload", "result"]) if (given[kind] !== undefined) steps.push(kind);
    this.checks = [];
    for (const name of steps) {
      try {
        this.checks.push({ name, ok: true, detail: await this[name]() });
      } catch (error) {
        const known = error instanceof Wrong;
        // A TypeError here: an event has not the form of its topic.
        const detail = known ? error.message : `can't be read: ${error.name}: ${error.message}`;
        this.checks.push({ name, ok: false, detail });
      }
    }
    this.ok = this.checks.every((check) => check.ok);
    return this;
  }

  async checkpoint() {
    const note = readNote(this.passport.checkpoint);
    const named = await readVerifierKey(this.passport.log_key, NOTE);
    must(named.name === note.origin, `\`log_key\` is of ${named.name}, the checkpoint of ${note.origin}`);
    const keys = this.trust.coordinator ?? [named];
    for (const { key } of keys.filter((one) => one.name === null || one.name === note.origin)) {
      const signature = signatureOf(note, note.origin, await keyHash(note.origin, NOTE, key));
      if (signature === undefined) continue;
      must(await isSigned(key, signature, UTF8.encode(note.signed)), "wrong signature of the log");
      Object.assign(this, { note, logKey: toBase64url(key) });
      return `${note.origin}, size ${note.size}, signed by ${this.logKey}`;
    }
    throw new Wrong(`no signature of a trusted key of the log ${note.origin}`);
  }

  async witnesses() {
    const note = readNote(this.passport.checkpoint);
    for (const witness of this.trust.witnesses) {
      const data = signatureOf(note, witness.name, witness.hash);
      if (data === undefined) continue;
      must(data.length === 72, `wrong signature of ${witness.name}`);
      const time = new DataView(data.buffer, data.byteOffset).getBigUint64(0);
      const message = UTF8.encode(`cosignature/v1\ntime ${time}\n${note.signed}`);
      must(await isSigned(witness.key, data.slice(8), message), `wrong signature of ${witness.name}`);
      this.cosigners.push(witness.name);
    }
    const told = `cosigned by ${this.cosigners.length} of ${this.trust.witnesses.length} witnesses`;
    must(this.cosigners.length >= this.trust.quorum, `${told}; ${this.trust.quorum} are needed`);
    return `${told}: ${this.cosigners.join(", ")}`;
  }

  async inclusion() {
    const note = readNote(this.passport.checkpoint);
    let before = { position: -1, index: -1 };
    for (const event of this.sorted) {
      const { position, index, topic, path } = event;
      const root = await rootOfPath(await leafHash(event), index, note.size, path);
      const where = `position ${position} at index ${index}`;
      must(root !== null && same(root, note.root), `the tree does not have this ${topic} of ${where}`);
      must(position > before.position && index > before.index, `positions and indexes do not increase at ${where}`);
      before = event;
    }
    return `${this.sorted.length} events, each at its index`;
  }

  stream() {
    const { job_id: jobId, events } = this.passport;
    events.forEach((event, place) => {
      must(event.stream === jobId, `the event at position ${event.position} is of another stream`);
      must(event.version === place + 1, `expected version ${place + 1} of the stream, found ${event.version}`);
    });
    return `versions 1 to ${events.length} of stream ${jobId}`;
  }

  events() {
    for (const event of this.sorted) {
      must(METADATA.test(event.metadata), `invalid metadata at position ${event.position}`);
      must(isObject(parsed(event.state)), `the state at position ${event.position} is not an object`);
    }
    return `${this.sorted.length} events`;
  }

  async history() {
    const own = new Set(this.passport.events);
    const life = new Life(this.passport.job_id);
    for (const event of this.sorted) {
      const facts = JSON.parse(event.state);
      if (own.has(event)) life.follow(event.topic, facts);
      else await life.relyOn(event, facts);
    }
    must(life.state !== null, "the last event does not end the job: later events are missing");
    this.life = life;
    return `${life.state} after ${life.holds.length} claimed attempt(s), by the rules of attempts, leases and prices`;
  }

  goodLife() {
    must(this.life !== null, "not checked: the history is not right");
    return this.life;
  }

  minersDocument() {
    const { submitted, completed } = this.life;
    return {
      version: "1",
      job_id: submitted.job_id,
      attempt: completed.attempt,
      miner_id: completed.miner_id,
      session_id: completed.session_id,
      service: submitted.service,
      payload_digest: submitted.payload_digest,
      result_digest: completed.result_digest,
      started_at_ms: completed.statement.started_at_ms,
      completed_at_ms: completed.statement.completed_at_ms,
      units: completed.statement.units ?? null,
    };
  }

  async statement() {
    const life = this.goodLife();
    if (life.completed === null) return "no result, so no statement";
    const { alg, key_id: keyId, sig, tree } = life.completed.statement.signature;
    must(alg === "Ed25519", "signed by an unknown algorithm");
    must(keyId === life.minerKey, `signed with ${keyId}, and the session's key is ${life.minerKey}`);
    let message = signedForm(this.minersDocument());
    if (tree !== undefined && tree !== null) {
      const leaf = await sha256(Uint8Array.of(0), message);
      const root = await rootOfPath(leaf, tree.index, tree.size, tree.path);
      must(root !== null, "the path of the statement is invalid");
      message = signedForm({ root: hex(root), statements: tree.size, version: "1" });
    }
    const good = await isSigned(base64url(keyId, 32), base64url(sig, 64), UTF8.encode(message));
    must(good, "the miner's signature does not match the statement");
    return `signed by ${life.completed.miner_id} with ${keyId}`;
  }

  async expectedReceipt(signer) {
    const { submitted, completed } = this.life;
    const { job_id: jobId } = submitted;
    const inForce = this.life.keyAt(this.passport.events.at(-1).position);
    const id = await sha256(`coordinator receipt 1\n${jobId}\n${completed.attempt}`);
    return {
      version: "1.0",
      receipt_id: hex(id).slice(0, 32),
      job_id: jobId,
      provider: completed.miner_id,
      client: submitted.client,
      units: completed.units,
      unit_type: unitType(submitted.unit ?? null),
      price: completed.price,
      started_at: Math.floor(completed.started_at / 1000),
      completed_at: Math.floor(completed.completed_at / 1000),
      metadata: {
        attempt: completed.attempt,
        service: submitted.service,
        payload_digest: submitted.payload_digest,
        result_digest: completed.result_digest,
        measured_units: completed.measured_units ?? null,
        statement: { ...this.minersDocument(), signature: completed.statement.signature },
        recorded_under: inForce === null || inForce === signer ? null : inForce,
      },
    };
  }

  async receipt() {
    const life = this.goodLife();
    const { receipt } = this.passport;
    if (life.completed === null) {
      must(receipt === null, `a receipt for a job that is ${life.state}`);
      return `none, as the job is ${life.state}`;
    }
    must(isObject(receipt), "the job is COMPLETED, and its receipt is missing");
    const { signature, attestations, ...content } = receipt;
    const message = signedForm(content);
    const expected = signedForm(await this.expectedReceipt(signature.key_id));
    must(message === expected, `the receipt is not this job's: expected ${expected}, found ${message}`);
    const trusted = this.trust.coordinator?.map((one) => toBase64url(one.key)) ?? [signature.key_id];
    must(trusted.includes(signature.key_id), `signed with ${signature.key_id}, which is not among the trusted keys`);
    const whole = signedForm({ ...content, signature });
    const verified = async ({ alg, key_id: key, sig }, over) =>
      alg === "Ed25519" && isSigned(base64url(key, 32), base64url(sig, 64), UTF8.encode(over));
    must(await verified(signature, message), "the signature does not match the receipt");
    for (const one of attestations ?? []) {
      const good =
        (await verified(one, message)) &&
        (one.receipt_sig === undefined || (await verified({ ...one, sig: one.receipt_sig }, whole)));
      must(good, `the attestation by ${one.key_id} does not match`);
      this.attestations.push(one.key_id);
    }
    this.receiptKey = signature.key_id;
    const attested = this.attestations.length > 0 ? `, attested ${this.attestations.length} time(s)` : "";
    return `signed by ${signature.key_id}${attested}`;
  }

  miner_keys() {
    const { holds } = this.goodLife();
    for (const [miner, key] of this.trust.miners) {
      const mine = holds.filter((hold) => hold.miner === miner);
      must(mine.length > 0, `${miner} never held this job`);
      must(mine.every((hold) => hold.key === key), `${miner} registered another key than ${key}`);
    }
    return [...this.trust.miners.keys()].join(", ");
  }

  payload() {
    return this.digestOf("payload", this.goodLife().submitted.payload_digest);
  }

  result() {
    const life = this.goodLife();
    must(life.completed !== null, `the job is ${life.state}: it has no result`);
    return this.digestOf("result", life.completed.result_digest);
  }

  async digestOf(kind, expected) {
    const salt = this.passport.salts?.[kind] ?? null;
    must(salt !== null, `the passport has no salt of the ${kind}`);
    const found = hex(await sha256(fromHex(salt), canonicalJson(this.given[kind])));
    must(found === expected, `its digest is ${found}, that in the log ${expected}`);
    return found;
  }
}

const verify = (passport, trust, given = {}) => new Verification(passport, trust, given).run();
