// Decimal arithmetic with whole numbers: prices and units are texts, and their rounding is part of the rules.

// A decimal text as [digits, decimals].
const decimal = (text) => {
  must(typeof text === "string" && /^[0-9]{1,60}(\.[0-9]{1,60})?$/.test(text), `not a decimal: ${text}`);
  const [whole, fraction = ""] = text.split(".");
  return [BigInt(whole + fraction), fraction.length];
};

const isAtMost = (one, other) => {
  const [[a, m], [b, n]] = [decimal(one), decimal(other)];
  return a * 10n ** BigInt(n) <= b * 10n ** BigInt(m);
};

const withDecimals = (digits, decimals) => {
  const text = digits.toString().padStart(decimals + 1, "0");
  return `${text.slice(0, -decimals)}.${text.slice(-decimals)}`;
};

// dividend / divisor with so many decimals, half up or half to even.
const divided = (dividend, divisor, decimals, toEven) => {
  const scaled = dividend * 10n ** BigInt(decimals);
  const [quotient, rest] = [scaled / divisor, scaled % divisor];
  const up = rest * 2n > divisor || (rest * 2n === divisor && (!toEven || quotient % 2n === 1n));
  return withDecimals(quotient + (up ? 1n : 0n), decimals);
};

const seconds = (millis) => withDecimals(BigInt(millis), 3);

const UNIT_TYPES = {
  frame: "frames",
  gb: "gigabytes",
  token: "tokens",
  output_token: "output_tokens",
  image: "images",
  media_minute: "media_minutes",
  unit: "units",
};
const WHOLE = ["frame", "token", "output_token", "image"];

const unitType = (unit) => (unit === null ? "gpu_seconds" : UNIT_TYPES[unit]);

// The list price, and its counted unit; for units of time the price of a second, and null.
const priceOf = ({ unit, amount }) => {
  const seconds = { second: 1n, minute: 60n, hour: 3600n }[unit];
  if (seconds === undefined) return [amount, unit];
  if (seconds === 1n) return [amount, null];
  const [digits, decimals] = decimal(amount);
  return [divided(digits, seconds * 10n ** BigInt(decimals), 9, true), null];
};

const nanos = (text) => {
  const [digits, decimals] = decimal(text);
  must(decimals <= 9, `more than nine decimals: ${text}`);
  return digits * 10n ** BigInt(9 - decimals);
};

const ofNanos = (number) => {
  const text = withDecimals(number, 9).replace(/0+$/, "");
  return text.endsWith(".") ? text.slice(0, -1) : text;
};

// The bill for counted units: the signed number, cut to the number that the result shows and to the limit.
const counted = (unit, stated, shown, unitPrice, maxUnits) => {
  const said = nanos(stated);
  const whole = WHOLE.includes(unit);
  must(!whole || said % 10n ** 9n === 0n, "a part of a whole unit");
  const numbers = [said, nanos(maxUnits), ...(shown === null ? [] : [nanos(shown)])];
  const least = numbers.reduce((one, other) => (other < one ? other : one));
  const paid = whole ? least - (least % 10n ** 9n) : least;
  const owed = divided(paid * nanos(unitPrice), 10n ** 18n, 6, false);
  return [ofNanos(paid), owed, paid === said ? null : ofNanos(said), shown];
};

// What `millis` cost: units, price, and the measured units where the limit cut them.
const billed = (millis, unitPrice, maxUnits) => {
  const [limit, places] = decimal(maxUnits);
  const most = Number((limit * 1000n) / 10n ** BigInt(places));
  const paid = Math.min(millis, most);
  const [price, decimals] = decimal(unitPrice);
  const owed = divided(BigInt(paid) * price, 1000n * 10n ** BigInt(decimals), 6, false);
  return [seconds(paid), owed, paid === millis ? null : seconds(millis), null];
};
