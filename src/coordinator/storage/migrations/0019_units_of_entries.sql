-- The units of a receipt, in the entries of its payment. Entries of before have none, as their events have none.

ALTER TABLE entries ADD COLUMN units text;
ALTER TABLE entries ADD COLUMN unit_type text;
