-- The command protocol's own tables (docs/command_protocol.md).

-- The outbox: what is to be pushed, written in the same transaction as command_history and command_ids.
CREATE TABLE optimizer.command_outbox (
    command_id varchar(255) PRIMARY KEY,
    issued_at timestamptz NOT NULL,
    site_id varchar(255) NOT NULL,
    device_id varchar(255) NOT NULL,
    command_type command_type_enum NOT NULL,
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    message text NOT NULL,
    decision_id uuid,
    pushed_at timestamptz,
    ended_at timestamptz,
    UNIQUE (device_id, seq)
);
CREATE INDEX outbox_unpushed ON optimizer.command_outbox (site_id, seq) WHERE pushed_at IS NULL;
CREATE INDEX outbox_open ON optimizer.command_outbox (site_id, expires_at) WHERE ended_at IS NULL;
CREATE INDEX outbox_last ON optimizer.command_outbox (device_id, seq DESC);

CREATE TABLE optimizer.device_seq (
    device_id varchar(255) PRIMARY KEY,
    last_seq bigint NOT NULL
);

CREATE TABLE optimizer.site_leases (
    site_id varchar(255) PRIMARY KEY,
    holder text,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
