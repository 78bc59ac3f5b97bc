-- A signed receipt is in the log, where `position` says; a table that says it again cost more than the rest of
-- its row.

ALTER TABLE receipts DROP COLUMN receipt_json;
