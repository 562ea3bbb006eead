-- KEYS: processing list, responses list.  ARGV: raw message, response JSON, clear-latch flag ('1'), latch key in KEYS[3]
-- The answer is kept and the message leaves the processing list in one step: neither is lost without the other.
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('LREM', KEYS[1], 1, ARGV[1])
if ARGV[3] == '1' then redis.call('DEL', KEYS[3]) end
return 1
