-- The contract's jobs, where the first version of them could fail or lose a row.

-- A month whose rows already lie in the default partition can be made: they move into it. Safe when run twice at once.
CREATE OR REPLACE FUNCTION create_monthly_partition(today date) RETURNS void AS $$
DECLARE
    month date;
    table_name text;
    lower_bound text;
    upper_bound text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('create_monthly_partition', 0));
    FOR step IN 0..4 LOOP
        month := (date_trunc('month', today::timestamp) + make_interval(months => step))::date;
        table_name := 'command_history_y' || to_char(month, 'YYYY') || 'm' || to_char(month, 'MM');
        CONTINUE WHEN to_regclass('public.' || quote_ident(table_name)) IS NOT NULL;
        lower_bound := to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';
        upper_bound := to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
        -- Nobody may add a row to the default partition between the move and the attachment.
        LOCK TABLE public.command_history IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('CREATE TABLE public.%I (LIKE public.command_history INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', table_name);
        EXECUTE format(
            'WITH moved AS (DELETE FROM public.command_history_default WHERE issued_at >= %L AND issued_at < %L RETURNING *) '
            'INSERT INTO public.%I SELECT * FROM moved', lower_bound, upper_bound, table_name);
        EXECUTE format(
            'ALTER TABLE public.command_history ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
            table_name, lower_bound, upper_bound);
    END LOOP;
END;
$$ LANGUAGE plpgsql;

-- As before, but a copy that another job left in the archive gives way to the row that is moved now.
CREATE OR REPLACE FUNCTION archive_device_configurations(at timestamptz) RETURNS bigint AS $$
DECLARE
    device public.device_configurations%ROWTYPE;
    moved bigint := 0;
BEGIN
    FOR device IN
        DELETE FROM public.device_configurations d
        WHERE d.updated_at < at - interval '5 years' AND d.status IS DISTINCT FROM 'online'
          AND NOT EXISTS (SELECT 1 FROM public.safety_constraints s WHERE s.device_id = d.device_id)
        RETURNING d.*
    LOOP
        DELETE FROM public.device_configurations_archive a WHERE a.id = device.id;
        INSERT INTO public.device_configurations_archive SELECT device.*;
        moved := moved + 1;
    END LOOP;
    RETURN moved;
END;
$$ LANGUAGE plpgsql;
