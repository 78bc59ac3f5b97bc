-- Sessions of people that were ended by a log-out, until their time is over.

-- name: sessions_end
-- Note the end of a session.
INSERT INTO ended_sessions (session_id, expires_at) VALUES (:session_id, :expires_at)
ON CONFLICT (session_id) DO NOTHING

-- name: sessions_is_ended
-- Whether a session was ended.
SELECT 1 AS found FROM ended_sessions WHERE session_id = :session_id

-- name: sessions_forget
-- Forget sessions that their time has ended as well.
DELETE FROM ended_sessions WHERE expires_at <= :now
