-- What is ours and not the contract's lives in a schema of its own.

CREATE TABLE optimizer.sites (
    site_id text PRIMARY KEY,
    name text NOT NULL,
    timezone text NOT NULL,
    config jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A value as it was known at a moment: forecasts and prices are revised, the past is not rewritten.
CREATE TABLE optimizer.site_series (
    site_id text NOT NULL,
    name text NOT NULL,
    starts_at timestamptz NOT NULL,
    dt_s double precision NOT NULL CHECK (dt_s > 0),
    known_at timestamptz NOT NULL,
    value double precision NOT NULL CHECK (value <> 'NaN' AND abs(value) < 'Infinity'),
    PRIMARY KEY (site_id, name, starts_at, known_at)
);

CREATE TABLE optimizer.decisions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    site_id text NOT NULL,
    starts_at timestamptz NOT NULL,
    interval_s integer NOT NULL,
    source text NOT NULL,
    policy_id uuid,
    solver text NOT NULL,
    objective_eur double precision,
    set_points jsonb NOT NULL,
    passed_over jsonb NOT NULL,
    plan jsonb NOT NULL,
    inputs jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX decisions_site_time ON optimizer.decisions (site_id, starts_at DESC, recorded_at DESC);
