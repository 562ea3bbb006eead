-- What policies would have decided, what each day was worth, and what was raised about them (docs/shadow_and_drift.md).

CREATE TABLE optimizer.shadow_decisions (
    site_id text NOT NULL,
    policy_id text NOT NULL,
    policy text NOT NULL,
    starts_at timestamptz NOT NULL,
    interval_s integer NOT NULL CHECK (interval_s > 0),
    outcome text NOT NULL,
    detail text NOT NULL,
    power_w jsonb NOT NULL,
    soc_pct jsonb NOT NULL,
    cut_w double precision NOT NULL,
    wall_s double precision NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (site_id, policy_id, starts_at)
);
CREATE INDEX shadow_decisions_age ON optimizer.shadow_decisions (recorded_at);

-- Where a shadow's virtual packs stand: one row a policy, overwritten at each interval.
CREATE TABLE optimizer.shadow_states (
    site_id text NOT NULL,
    policy_id text NOT NULL,
    state jsonb NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (site_id, policy_id)
);

-- A day is scored when it has a row here; why_not says why it has no scores.
CREATE TABLE optimizer.scored_days (
    site_id text NOT NULL,
    day date NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    why_not text NOT NULL,
    scored_by text NOT NULL,
    scored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (site_id, day)
);

-- policy_id is empty for rule, hold and stop.
CREATE TABLE optimizer.policy_days (
    site_id text NOT NULL,
    day date NOT NULL,
    role text NOT NULL CHECK (role IN ('commanded', 'shadow')),
    policy_id text NOT NULL,
    policy text NOT NULL,
    score double precision CHECK (score BETWEEN 0 AND 1),
    j_eur double precision NOT NULL CHECK (abs(j_eur) < 'Infinity'),
    idle_eur double precision NOT NULL CHECK (abs(idle_eur) < 'Infinity'),
    best_eur double precision NOT NULL CHECK (abs(best_eur) < 'Infinity'),
    decided_share double precision NOT NULL CHECK (decided_share BETWEEN 0 AND 1),
    violations integer NOT NULL,
    details jsonb NOT NULL,
    PRIMARY KEY (site_id, day, role, policy_id, policy),
    FOREIGN KEY (site_id, day) REFERENCES optimizer.scored_days ON DELETE CASCADE
);
CREATE INDEX policy_days_policy ON optimizer.policy_days (site_id, policy_id, day);

CREATE TABLE optimizer.policy_alarms (
    site_id text NOT NULL,
    policy_id text NOT NULL,
    policy text NOT NULL,
    day date NOT NULL,
    kind text NOT NULL CHECK (kind IN ('floor', 'drift')),
    action text NOT NULL CHECK (action IN ('demoted', 'kept')),
    reason text NOT NULL,
    figures jsonb NOT NULL,
    raised_by text NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (site_id, policy_id, day, kind)
);
