-- KEYS: the site's epoch; then for each message: pending list, latch key, pushed-ids zset.  ARGV: the messages, in order.
-- Returns for each message {status, purged command ids...}; status: 1 pushed, 0 already there or taken, -1 past its deadline,
-- -2 latched, -3 of an older epoch than the site's dispatcher has.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)

-- What an emergency_shutdown takes out of the pending list: starts, and resets of the latch, which were meant for an older one.
local function is_purged(waiting)
  local kind, parameters = waiting['type'], waiting['parameters']
  if kind == 'start_charge' or kind == 'start_discharge' then return true end
  return kind == 'update_parameters' and type(parameters) == 'table' and (tonumber(parameters['reset_latch']) or 0) >= 1
end

local function push(raw, pending, latch, pushed)
  local message = cjson.decode(raw)
  local id, kind, expires_ms = message['command_id'], message['type'], message['expires_at_ms']
  local is_shutdown = kind == 'emergency_shutdown'
  local ttl = expires_ms - now_ms
  if ttl <= 0 then return {-1} end
  -- More left than it was given: the clock was set back since it was issued, and its true age is not known.
  if ttl > message['timeout'] * 1000 + 1000 and not is_shutdown then return {-1} end
  -- Ids are kept until their own deadline: under steady traffic the key itself never dies.
  redis.call('ZREMRANGEBYSCORE', pushed, '-inf', now_ms)
  if redis.call('ZSCORE', pushed, id) then return {0} end
  -- A leader that was paused past its lease is refused here, also when the device has not heard of its successor yet.
  local epoch, known = message['epoch'], tonumber(redis.call('GET', KEYS[1]) or '0')
  if epoch < known and not is_shutdown then return {-3} end
  if epoch > known then redis.call('SET', KEYS[1], string.format('%.0f', epoch)) end
  local is_start = kind == 'start_charge' or kind == 'start_discharge'
  if is_start and redis.call('EXISTS', latch) == 1 then return {-2} end
  local result = {1}
  if is_shutdown then
    -- Every pending start and reset goes; the shutdown is served next; the device is latched until an operator resets it.
    -- What cannot be read stays for the take to drop: it must not keep a shutdown out.
    for _, other in ipairs(redis.call('LRANGE', pending, 0, -1)) do
      local ok, waiting = pcall(cjson.decode, other)
      if ok and type(waiting) == 'table' and is_purged(waiting) then
        redis.call('LREM', pending, 1, other)
        if type(waiting['command_id']) == 'string' then table.insert(result, waiting['command_id']) end
      end
    end
    redis.call('RPUSH', pending, raw)
    redis.call('SET', latch, id)
  else
    redis.call('LPUSH', pending, raw)
  end
  -- The keys' own lives are only garbage collection: never shorter than any message.
  if redis.call('PTTL', pending) < ttl then redis.call('PEXPIRE', pending, ttl) end
  redis.call('ZADD', pushed, string.format('%.0f', expires_ms), id)
  if redis.call('PTTL', pushed) < ttl then redis.call('PEXPIRE', pushed, ttl) end
  return result
end

local results = {}
for k, raw in ipairs(ARGV) do
  results[k] = push(raw, KEYS[3 * k - 1], KEYS[3 * k], KEYS[3 * k + 1])
end
return results
