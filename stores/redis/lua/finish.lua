-- KEYS: processing list, responses list, latch key, told key.  ARGV: raw message, response JSON, the latch to clear ('' for none),
-- the device's mark of what it has told so far ('' leaves it).
-- The answer is kept and the message leaves the processing list in one step: neither is lost without the other. A reset clears
-- the latch that stood when it was taken, never that of a shutdown which was pushed since.
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('LREM', KEYS[1], 1, ARGV[1])
if ARGV[3] ~= '' and redis.call('GET', KEYS[3]) == ARGV[3] then redis.call('DEL', KEYS[3]) end
if ARGV[4] ~= '' then redis.call('SET', KEYS[4], ARGV[4]) end
return 1
