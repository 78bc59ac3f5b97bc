// The life of a job by the rules: which event may follow which, and what it may say.

const FINAL = {
  "job.completed.v1": "COMPLETED",
  "job.failed.v1": "FAILED",
  "job.canceled.v1": "CANCELED",
  "job.expired.v1": "EXPIRED",
};

const equal = (found, expected, what) => {
  const [one, other] = [JSON.stringify(found), JSON.stringify(expected)];
  must(one === other, `${what}: expected ${other}, found ${one}`);
};

class Life {
  #sessions = new Map();
  #services = new Map();
  #keys = [];
  #start = null;
  #ends = [];
  #attempt = 1;
  #charged = 0;
  #queuedAt = 0;
  #shows = false;
  #phase = "new";

  submitted = null;
  completed = null;
  last = null;
  state = null;
  holds = [];

  constructor(jobId) {
    this.jobId = jobId;
  }

  get minerKey() {
    return this.#start.miner_key;
  }

  // The coordinator's key in force for the event at this position.
  keyAt(position) {
    return this.#keys.filter((key) => key.position < position).at(-1)?.id ?? null;
  }

  async relyOn(event, facts) {
    switch (event.topic) {
      case "signing_key.introduced.v1":
        equal(event.stream, await streamOf("signing_key", "coordinator"), "the stream of signing keys");
        equal(event.version, this.#keys.length + 1, "the next version of the signing keys");
        equal(facts.retires, this.#keys.at(-1)?.id ?? null, "the key before");
        this.#keys.push({ position: event.position, id: facts.key_id });
        break;
      case "service.registered.v1":
      case "service.revised.v1":
        equal(event.stream, await streamOf("service", facts.spec.id), "the service's stream");
        this.#services.set(JSON.stringify([facts.spec.id, facts.version ?? 1]), facts.spec);
        break;
      case "miner.registered.v1": {
        equal(event.stream, await streamOf("miner", facts.miner_id), "the miner's stream");
        equal(facts.by, facts.miner_id.split("@").at(-1), "a miner registers itself");
        const session = JSON.stringify([facts.miner_id, facts.session_id]);
        must(!this.#sessions.has(session), "a session is registered once");
        this.#sessions.set(session, facts);
        break;
      }
      default:
        throw new Wrong(`no job relies on ${event.topic}`);
    }
  }

  follow(topic, facts) {
    must(this.#phase !== "final", `${topic} after the job's end`);
    equal(facts.job_id, this.jobId, "the job's id");
    this.last = facts;
    if (topic === "job.submitted.v1") return this.#submit(facts);
    must(this.submitted !== null, `a job does not begin with ${topic}`);
    equal(facts.client, this.submitted.client, "a job has one owner");
    const next = topic === "job.requeued.v1" ? this.#attempt + 1 : this.#attempt;
    equal(facts.attempt, next, "the attempt");
    switch (topic) {
      case "job.started.v1":
        return this.#begin(facts);
      case "job.attempt_ended.v1":
        return this.#endAttempt(facts);
      case "job.requeued.v1":
        return this.#requeue(facts);
      case "job.completed.v1":
        this.#complete(facts);
        break;
      case "job.failed.v1":
        this.#fail(facts);
        break;
      case "job.canceled.v1":
        this.#phaseIs(topic, "queued", "started");
        break;
      case "job.expired.v1":
        this.#phaseIs(topic, "queued", "started");
        must(facts.at >= this.submitted.expires_at, "the job expired before its time");
        break;
      default:
        throw new Wrong(`no job has the event ${topic}`);
    }
    this.#phase = "final";
    this.state = FINAL[topic];
    this.#released(this.state.toLowerCase(), facts.at);
  }

  #phaseIs(topic, ...phases) {
    must(phases.includes(this.#phase), `${topic} can't follow: the job is ${this.#phase}`);
  }

  #submit(facts) {
    this.#phaseIs("job.submitted.v1", "new");
    equal(facts.by, facts.client, "a job is submitted by its owner");
    const spec = this.#services.get(JSON.stringify([facts.service, facts.service_version]));
    must(spec !== undefined, `no version ${facts.service_version} of ${facts.service} was registered before`);
    equal(facts.timeout_seconds, spec.timeout_seconds, "the time limit of the service");
    const unit = facts.unit ?? null;
    equal([facts.list_price, unit], priceOf(spec.pricing), "the list price of the service, and its unit");
    const most = unit === null ? String(facts.timeout_seconds) : "1000000000";
    must(isAtMost(facts.max_units, most), "the limit of units is too high");
    this.#shows = (spec.pricing.shown ?? []).length > 0;
    this.submitted = facts;
    this.#phase = "queued";
    this.#queuedAt = facts.at;
  }

  #begin(facts) {
    const { submitted } = this;
    this.#phaseIs("job.started.v1", "queued");
    must(facts.at < submitted.expires_at, "the job was claimed after its end");
    equal(facts.by, facts.miner_id.split("@").at(-1), "a miner claims for itself");
    const session = this.#sessions.get(JSON.stringify([facts.miner_id, facts.session_id]));
    must(session !== undefined, `the session ${facts.session_id} of ${facts.miner_id} was never registered`);
    equal(facts.miner_key, session.public_key, "the session's key");
    const { price, prices } = session.capabilities;
    const own = (prices ?? []).find((one) => one.unit === submitted.unit)?.amount;
    const asked = (submitted.unit ?? null) === null ? price : own;
    equal(facts.unit_price, asked ?? submitted.list_price, "the price of a unit");
    const limit = submitted.constraints.max_price ?? submitted.list_price;
    must(isAtMost(facts.unit_price, limit), "the price of a unit exceeds the client's limit");
    this.#phase = "started";
    this.#start = facts;
    this.#charged += 1;
    this.holds.push({ attempt: facts.attempt, miner: facts.miner_id, key: facts.miner_key, since: facts.at });
  }

  #isHeldBy(topic, facts) {
    this.#phaseIs(topic, "started");
    const start = this.#start;
    equal([facts.miner_id, facts.session_id], [start.miner_id, start.session_id], "the holder of the job");
  }

  #released(outcome, at) {
    const hold = this.holds.at(-1);
    if (hold !== undefined && hold.outcome === undefined) Object.assign(hold, { outcome, until: at });
  }

  #endAttempt(facts) {
    this.#isHeldBy("job.attempt_ended.v1", facts);
    const releases = this.#ends.slice(-16).filter((end) => end.outcome === "released").length;
    if (facts.outcome === "released" && releases < 10) this.#charged -= 1;
    this.#ends.push(facts);
    this.#phase = "between attempts";
    this.#released(facts.outcome, facts.at);
  }

  get #isOver() {
    const last = this.#ends.at(-1);
    const before = this.#ends.slice(0, -1).slice(-16);
    const confirmed = before.some((end) => !end.retryable && end.miner_id !== last.miner_id);
    return this.#charged >= this.submitted.max_attempts || (!last.retryable && confirmed);
  }

  #requeue(facts) {
    this.#phaseIs("job.requeued.v1", "between attempts");
    must(!this.#isOver, "a job without attempts left is not queued again");
    this.#phase = "queued";
    this.#attempt = facts.attempt;
    this.#queuedAt = facts.at;
  }

  #fail(facts) {
    this.#phaseIs("job.failed.v1", "between attempts");
    const last = this.#ends.at(-1);
    const [told, reason] = [facts, last].map((event) => [event.error_code, event.error_message]);
    equal(told, reason, "a job fails for the reason of its last attempt");
    must(this.#isOver, "a job with attempts left does not fail");
  }

  #complete(facts) {
    this.#isHeldBy("job.completed.v1", facts);
    const { at, statement } = facts;
    const stated = ["completed_at_ms", "signature", "started_at_ms"];
    if (statement.units !== undefined) stated.push("units");
    equal(Object.keys(statement).sort(), stated, "the members of the statement");
    const said = [statement.started_at_ms, statement.completed_at_ms];
    must(said.every(Number.isSafeInteger), "the statement has no times");
    const leases = [this.#start.at];
    if (this.#start.at === at) leases.push(Math.max(this.#queuedAt, at - 10_000));
    const times = leases.map((since) => {
      const begun = Math.max(since, Math.min(said[0], at));
      return JSON.stringify([begun, Math.max(begun, Math.min(said[1], at))]);
    });
    const paid = JSON.stringify([facts.started_at, facts.completed_at]);
    must(times.includes(paid), `the paid time is the stated time within the lease: ${times[0]}, found ${paid}`);
    const { unit_price: price } = this.#start;
    const { unit = null, max_units: limit } = this.submitted;
    const shown = facts.shown_units ?? null;
    let owed;
    if (unit === null) {
      owed = billed(facts.completed_at - facts.started_at, price, limit);
    } else {
      must(this.#shows === (shown !== null), "the units of the result are not counted as the service says");
      must(isObject(statement.units) && Object.hasOwn(statement.units, unit), "the miner signed no number of units");
      owed = counted(unit, statement.units[unit], shown, price, limit);
    }
    equal([facts.units, facts.price, facts.measured_units ?? null, shown], owed, "the bill");
    this.completed = facts;
  }
}
