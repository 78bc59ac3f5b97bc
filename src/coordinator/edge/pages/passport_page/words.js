// What a verified passport proves, by whom, and what it does not.

const moment = (millis) => new Date(millis).toISOString();

const provenBy = ({ ok, note, logKey, trust, cosigners, passport, life, sorted, attestations, receiptKey, checks }) => {
  if (!ok) return [];
  const witnessed =
    trust.witnesses.length > 0 ? `, cosigned by ${cosigners.length} of ${trust.witnesses.length} witnesses` : "";
  const { submitted, completed, last, holds, state } = life;
  const own = passport.events.length;
  const told = [
    `The log of ${note.origin} contains these ${sorted.length} events (checkpoint of size ${note.size}, ` +
      `signed by ${logKey}${witnessed}).`,
    `By the log, ${submitted.client} asked for ${submitted.service} (version ${submitted.service_version}) at ` +
      `${moment(submitted.at)}, with the payload of digest ${submitted.payload_digest}.`,
    ...holds.map(
      (hold) =>
        `By the log, attempt ${hold.attempt} was held by ${hold.miner} alone from ${moment(hold.since)} to ` +
        `${moment(hold.until)}: ${hold.outcome}.`,
    ),
    `The job is ${state} since ${moment(last.at)}: its ${own} events are versions 1 to ${own} of its stream, and ` +
      "each follows from those before it.",
  ];
  if (completed !== null) {
    told.push(
      `The miner ${completed.miner_id} signed with ${life.minerKey} that it made the result of digest ` +
        `${completed.result_digest} from the payload of digest ${submitted.payload_digest}.`,
      `The receipt of ${completed.units} ${unitType(submitted.unit ?? null)} for ${completed.price} follows from the ` +
        `events, and is signed by ${receiptKey}${attestations.length > 0 ? `; attested by ${attestations.join(", ")}` : ""}.`,
    );
  }
  for (const { name, detail } of checks)
    if (name === "payload" || name === "result") told.push(`The ${name} that you have is the one of digest ${detail}.`);
  return told;
};

const notProven = ({ trust, life, given, attestations }) => {
  const told = [];
  if (trust.coordinator === null)
    told.push("who made it: you named no trusted key, and anybody can make one with a key of its own");
  if (trust.witnesses.length === 0)
    told.push("that others see the same log: you named no witness, and a log can show two faces");
  if (life === null) return told;
  const { submitted, completed, holds, state } = life;
  told.push(`that ${submitted.client} asked for it in person: whoever had its API key did, and signed nothing`);
  if (completed !== null) {
    told.push("that the result is any good, or was computed at all", "that the price was paid");
  }
  for (const miner of new Set(holds.map((hold) => hold.miner)))
    if (!trust.miners.has(miner)) told.push(`that the key of ${miner} is its own: only the log says so`);
  const known = (trust.coordinator ?? []).map((one) => toBase64url(one.key));
  for (const key of attestations) if (!known.includes(key)) told.push(`whose the attestation's key ${key} is`);
  if (given.payload === undefined) told.push("the request's content: the log has its digest only");
  if (completed !== null && given.result === undefined)
    told.push("the result's content: the log has its digest only");
  told.push(
    "that all clocks were right: times are the coordinator's, those in the statement the miner's",
    `that the log has no event of this job after its end: its rules forbid one after ${state}, and an audit of the ` +
      "whole log shows it",
  );
  return told;
};
