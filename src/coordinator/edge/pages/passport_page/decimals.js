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

const pricePerSecond = ({ unit, amount }) => {
  if (unit === "second") return amount;
  const [digits, decimals] = decimal(amount);
  return unit === "hour" ? divided(digits, 3600n * 10n ** BigInt(decimals), 9, true) : "0";
};

// What `millis` cost: units, price, and the measured units where the limit cut them.
const billed = (millis, unitPrice, maxUnits) => {
  const [limit, places] = decimal(maxUnits);
  const most = Number((limit * 1000n) / 10n ** BigInt(places));
  const paid = Math.min(millis, most);
  const [price, decimals] = decimal(unitPrice);
  const owed = divided(BigInt(paid) * price, 1000n * 10n ** BigInt(decimals), 6, false);
  return [seconds(paid), owed, paid === millis ? null : seconds(millis)];
};
