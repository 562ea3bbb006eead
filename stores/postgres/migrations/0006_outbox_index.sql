-- The unique key (device_id, seq), read backwards, serves what this index was for; each command wrote it twice.
DROP INDEX optimizer.outbox_last;
