-- KEYS: pending list, latch key, pushed-ids zset, the site's epoch.
-- ARGV: message, command_id, timeout ms, expires_at_ms, type, is_start, epoch
-- Returns {status, purged command ids...}; status: 1 pushed, 0 already there or taken, -1 past its deadline, -2 latched,
-- -3 of an older epoch than the site's dispatcher has.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local ttl = tonumber(ARGV[4]) - now_ms
if ttl <= 0 then return {-1} end
-- More left than it was given: the clock was set back since it was issued, and its true age is not known.
if ttl > tonumber(ARGV[3]) + 1000 and ARGV[5] ~= 'emergency_shutdown' then return {-1} end
-- Ids are kept until their own deadline: under steady traffic the key itself never dies.
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_ms)
if redis.call('ZSCORE', KEYS[3], ARGV[2]) then return {0} end
-- A leader that was paused past its lease is refused here, also when the device has not heard of its successor yet.
local epoch, known = tonumber(ARGV[7]), tonumber(redis.call('GET', KEYS[4]) or '0')
if epoch < known and ARGV[5] ~= 'emergency_shutdown' then return {-3} end
if epoch > known then redis.call('SET', KEYS[4], ARGV[7]) end
if ARGV[6] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return {-2} end
local purged = {}
if ARGV[5] == 'emergency_shutdown' then
  -- Every pending start goes; the shutdown is served next; the device is latched until an operator resets it.
  -- What cannot be read stays for the take to drop: it must not keep a shutdown out.
  for _, raw in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local ok, message = pcall(cjson.decode, raw)
    if ok and type(message) == 'table' and (message['type'] == 'start_charge' or message['type'] == 'start_discharge') then
      redis.call('LREM', KEYS[1], 1, raw)
      if type(message['command_id']) == 'string' then table.insert(purged, message['command_id']) end
    end
  end
  redis.call('RPUSH', KEYS[1], ARGV[1])
  redis.call('SET', KEYS[2], ARGV[2])
else
  redis.call('LPUSH', KEYS[1], ARGV[1])
end
-- The key's own life is only garbage collection: never shorter than any message in it.
local left = redis.call('PTTL', KEYS[1])
if left < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2])
local kept = redis.call('PTTL', KEYS[3])
if kept < ttl then redis.call('PEXPIRE', KEYS[3], ttl) end
table.insert(purged, 1, 1)
return purged
