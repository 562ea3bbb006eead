-- The contract's tables, in schema public, with the corrections listed in docs/schema_differences.md.

CREATE TYPE chemistry_enum AS ENUM ('LFP', 'NMC', 'LCO', 'NCA');
CREATE TYPE device_status_enum AS ENUM ('online', 'offline', 'error', 'maintenance');
CREATE TYPE policy_type_enum AS ENUM ('MPC', 'RL', 'HYBRID');
CREATE TYPE policy_status_enum AS ENUM ('active', 'inactive', 'testing', 'deprecated');
CREATE TYPE command_type_enum AS ENUM (
    'start_charge', 'stop_charge', 'start_discharge', 'stop_discharge',
    'emergency_shutdown', 'update_parameters', 'request_status'
);

CREATE TABLE device_configurations (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    device_id VARCHAR(255) UNIQUE NOT NULL,
    site_id VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    chemistry chemistry_enum NOT NULL,
    nominal_capacity DECIMAL(10,2) NOT NULL,
    nominal_voltage DECIMAL(10,2) NOT NULL,
    max_charge_power DECIMAL(10,2) NOT NULL,
    max_discharge_power DECIMAL(10,2) NOT NULL,
    series_cells INTEGER NOT NULL,
    parallel_cells INTEGER NOT NULL,
    location VARCHAR(255),
    rack_position VARCHAR(50),
    installation_date DATE,
    manufacturing_date DATE,
    status device_status_enum DEFAULT 'offline',
    firmware_version VARCHAR(50),
    last_seen TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    created_by VARCHAR(255),
    updated_by VARCHAR(255),
    CONSTRAINT valid_capacity CHECK (nominal_capacity > 0),
    CONSTRAINT valid_voltage CHECK (nominal_voltage > 0),
    CONSTRAINT valid_cells CHECK (series_cells > 0 AND parallel_cells > 0)
);
CREATE INDEX idx_device_site ON device_configurations(site_id);
CREATE INDEX idx_device_status ON device_configurations(status);
CREATE INDEX idx_device_last_seen ON device_configurations(last_seen);

CREATE TABLE device_configurations_archive (LIKE device_configurations INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE device_configurations_archive ADD PRIMARY KEY (id);

CREATE TABLE safety_constraints (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    device_id VARCHAR(255) NOT NULL REFERENCES device_configurations(device_id),
    max_cell_voltage DECIMAL(5,3) DEFAULT 4.2,
    min_cell_voltage DECIMAL(5,3) DEFAULT 2.5,
    max_pack_voltage DECIMAL(8,2),
    min_pack_voltage DECIMAL(8,2),
    max_charge_current DECIMAL(8,2) DEFAULT 50.0,
    max_discharge_current DECIMAL(8,2) DEFAULT 100.0,
    max_cell_temperature DECIMAL(5,2) DEFAULT 60.0,
    min_cell_temperature DECIMAL(5,2) DEFAULT -20.0,
    max_temperature_delta DECIMAL(5,2) DEFAULT 10.0,
    max_soc DECIMAL(5,2) DEFAULT 95.0,
    min_soc DECIMAL(5,2) DEFAULT 5.0,
    max_charge_power DECIMAL(10,2),
    max_discharge_power DECIMAL(10,2),
    max_cycle_depth DECIMAL(5,2) DEFAULT 80.0,
    max_c_rate DECIMAL(5,2) DEFAULT 1.0,
    active BOOLEAN DEFAULT true,
    effective_from TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    effective_until TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    created_by VARCHAR(255),
    CONSTRAINT valid_voltage_range CHECK (min_cell_voltage < max_cell_voltage),
    CONSTRAINT valid_temp_range CHECK (min_cell_temperature < max_cell_temperature),
    CONSTRAINT valid_soc_range CHECK (min_soc < max_soc),
    CONSTRAINT valid_soc_bounds CHECK (min_soc >= 0 AND max_soc <= 100)
);

CREATE TABLE optimization_policies (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    site_id VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    policy_type policy_type_enum NOT NULL,
    config JSONB NOT NULL,
    model_version VARCHAR(50),
    training_date TIMESTAMP WITH TIME ZONE,
    performance_metrics JSONB,
    horizon_hours INTEGER,
    update_interval_seconds INTEGER,
    status policy_status_enum DEFAULT 'inactive',
    deployed_at TIMESTAMP WITH TIME ZONE,
    performance_score DECIMAL(5,4),
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    created_by VARCHAR(255),
    CONSTRAINT valid_horizon CHECK (horizon_hours > 0),
    CONSTRAINT valid_interval CHECK (update_interval_seconds > 0),
    -- NaN is greater than every number in PostgreSQL, so `<= 1` refuses it; said again so that nobody relies on luck.
    CONSTRAINT valid_score CHECK (performance_score >= 0 AND performance_score <= 1 AND performance_score <> 'NaN')
);

CREATE TABLE command_ids (
    command_id VARCHAR(255) PRIMARY KEY,
    issued_at TIMESTAMP WITH TIME ZONE NOT NULL
);

CREATE TABLE command_history (
    id UUID NOT NULL DEFAULT gen_random_uuid(),
    command_id VARCHAR(255) NOT NULL,
    site_id VARCHAR(255) NOT NULL,
    device_id VARCHAR(255) NOT NULL,
    command_type command_type_enum NOT NULL,
    parameters JSONB,
    issued_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    acknowledged_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,
    success BOOLEAN,
    response_message TEXT,
    response_data JSONB,
    timeout_seconds INTEGER DEFAULT 30,
    retry_count INTEGER DEFAULT 0,
    max_retries INTEGER DEFAULT 3,
    issued_by VARCHAR(255),
    source_system VARCHAR(100),
    CONSTRAINT command_history_pkey PRIMARY KEY (id, issued_at),
    CONSTRAINT command_history_command_id_key UNIQUE (command_id, issued_at),
    CONSTRAINT valid_timeout CHECK (timeout_seconds > 0),
    CONSTRAINT valid_retries CHECK (retry_count >= 0 AND max_retries >= 0)
) PARTITION BY RANGE (issued_at);
CREATE INDEX idx_command_device ON command_history(device_id, issued_at);
CREATE INDEX idx_command_status ON command_history(success, completed_at);
CREATE TABLE command_history_default PARTITION OF command_history DEFAULT;

-- Idempotent: the month of `today` and four ahead, bounds in UTC whatever the session's time zone.
CREATE FUNCTION create_monthly_partition(today date) RETURNS void AS $$
DECLARE
    month date;
    table_name text;
BEGIN
    FOR step IN 0..4 LOOP
        month := (date_trunc('month', today::timestamp) + make_interval(months => step))::date;
        table_name := 'command_history_y' || to_char(month, 'YYYY') || 'm' || to_char(month, 'MM');
        IF to_regclass('public.' || quote_ident(table_name)) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE public.%I PARTITION OF public.command_history FOR VALUES FROM (%L) TO (%L)',
                table_name, to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
        END IF;
    END LOOP;
END;
$$ LANGUAGE plpgsql;

CREATE FUNCTION create_monthly_partition() RETURNS void AS $$
    SELECT public.create_monthly_partition((clock_timestamp() AT TIME ZONE 'UTC')::date);
$$ LANGUAGE sql;

SELECT create_monthly_partition();

-- Whole partitions older than a year are dropped; what is left is deleted. Returns (partitions dropped, rows deleted).
CREATE FUNCTION clean_command_history(at timestamptz, OUT dropped integer, OUT deleted bigint) AS $$
DECLARE
    part record;
    month timestamptz;
BEGIN
    dropped := 0;
    FOR part IN
        SELECT child.relname AS name FROM pg_inherits
        JOIN pg_class child ON child.oid = inhrelid
        WHERE inhparent = 'public.command_history'::regclass AND child.relname ~ '^command_history_y\d{4}m\d{2}$'
    LOOP
        month := (substr(part.name, 18, 4) || '-' || substr(part.name, 23, 2) || '-01 00:00:00+00')::timestamptz;
        IF (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' <= at - interval '1 year' THEN
            EXECUTE format('DROP TABLE public.%I', part.name);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    DELETE FROM public.command_history WHERE issued_at < at - interval '1 year';
    GET DIAGNOSTICS deleted = ROW_COUNT;
END;
$$ LANGUAGE plpgsql;

-- Moves, in one statement, devices untouched for five years that nothing refers to and that are not online.
CREATE FUNCTION archive_device_configurations(at timestamptz) RETURNS bigint AS $$
    WITH moved AS (
        DELETE FROM public.device_configurations d
        WHERE d.updated_at < at - interval '5 years' AND d.status IS DISTINCT FROM 'online'
          AND NOT EXISTS (SELECT 1 FROM public.safety_constraints s WHERE s.device_id = d.device_id)
        RETURNING d.*
    ), kept AS (
        INSERT INTO public.device_configurations_archive SELECT * FROM moved ON CONFLICT (id) DO NOTHING RETURNING 1
    )
    SELECT count(*) FROM kept;
$$ LANGUAGE sql;
