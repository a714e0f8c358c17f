-- A database of the schema 0001 (SQLite), as a server of that version left it.

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version VALUES ('0001');

CREATE TABLE users (
    user_id TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    created_at DOUBLE NOT NULL,
    PRIMARY KEY (user_id)
);

CREATE TABLE threads (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    created_at DOUBLE NOT NULL,
    CONSTRAINT threads_of_user UNIQUE (user_id, thread_id)
);

CREATE TABLE messages (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    thread INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    truncated BOOLEAN NOT NULL,
    created_at DOUBLE NOT NULL,
    CONSTRAINT messages_by_id UNIQUE (message_id),
    FOREIGN KEY (thread) REFERENCES threads (number) ON DELETE CASCADE
);
CREATE INDEX messages_of_thread ON messages (thread, number);

CREATE TABLE runs (
    message INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    keyed BOOLEAN NOT NULL,
    fingerprint BLOB NOT NULL,
    agent_name TEXT NOT NULL,
    status TEXT NOT NULL,
    completed BLOB,
    PRIMARY KEY (message),
    CONSTRAINT runs_by_id UNIQUE (run_id),
    FOREIGN KEY (message) REFERENCES messages (number) ON DELETE CASCADE
);
CREATE UNIQUE INDEX runs_by_key ON runs (user_id, correlation_id) WHERE keyed;

-- The rows; PostgreSQL takes these as well, but writes X'00' as '\x00'. 73616d65 is `same`.

INSERT INTO users (user_id, enabled, created_at) VALUES ('alice', TRUE, 1640995100.5);
INSERT INTO users (user_id, enabled, created_at) VALUES ('bob', FALSE, 1640995100.5);

INSERT INTO threads (user_id, thread_id, created_at) VALUES ('alice', 'main', 1640995200.25);

INSERT INTO messages (thread, message_id, role, content, bytes, truncated, created_at)
    VALUES (1, 'msg_1', 'user', 'What is 6 * 7?', 14, FALSE, 1640995200.25);
INSERT INTO messages (thread, message_id, role, content, bytes, truncated, created_at)
    VALUES (1, 'msg_2', 'agent', '42, and so on', 13, TRUE, 1640995201.25);
INSERT INTO messages (thread, message_id, role, content, bytes, truncated, created_at)
    VALUES (1, 'msg_3', 'user', 'Sure?', 5, FALSE, 1640995202.25);
INSERT INTO messages (thread, message_id, role, content, bytes, truncated, created_at)
    VALUES (1, 'msg_4', 'user', 'Hello?', 6, FALSE, 1640995203.25);

INSERT INTO runs
    (message, run_id, user_id, correlation_id, keyed, fingerprint, agent_name, status, completed)
    VALUES (1, 'run_1', 'alice', 'c-1', TRUE, X'73616d65', 'echo', 'completed', X'7b2272756e5f6964223a2272756e5f31227d');
INSERT INTO runs
    (message, run_id, user_id, correlation_id, keyed, fingerprint, agent_name, status, completed)
    VALUES (3, 'run_3', 'alice', 'c-3', TRUE, X'73616d65', 'echo', 'running', NULL);
INSERT INTO runs
    (message, run_id, user_id, correlation_id, keyed, fingerprint, agent_name, status, completed)
    VALUES (4, 'run_4', 'alice', 'c-4', FALSE, X'73616d65', 'echo', 'queued', NULL);
