-- What packs were measured to be. Every attempt is kept, also the refused ones; the newest accepted one counts.
CREATE TABLE optimizer.twin_calibrations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    device_id text NOT NULL,
    site_id text NOT NULL,
    calibrated_at timestamptz NOT NULL,
    data_from timestamptz NOT NULL,
    data_to timestamptz NOT NULL,
    accepted boolean NOT NULL,
    reason text NOT NULL,
    score double precision CHECK (score BETWEEN 0 AND 1),
    parameters jsonb,
    details jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (NOT accepted OR (score IS NOT NULL AND parameters IS NOT NULL))
);
CREATE INDEX twin_calibrations_newest ON optimizer.twin_calibrations (device_id, calibrated_at DESC, recorded_at DESC);
