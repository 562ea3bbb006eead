-- KEYS: pending list, processing list, latch key, told key.  ARGV: prefix of the responses lists.
-- Returns {now_ms, message or '', the latch's value or '', what the device told last or '', dropped messages...}.
-- The latch comes with every take: an emergency_shutdown whose deadline passed while the device was away is dropped like any
-- message, and only the latch still tells of it. What the device told last shows it when Redis has lost its memory, or the end
-- of it: the device then says again what is missing.
-- Messages past their deadline are dropped here, by Redis TIME, and handed back so that history learns of them. What is
-- taken is acknowledged in the same step: a device that dies with it leaves "indeterminate" on the record, not "expired".
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local result = {tostring(now_ms), '', redis.call('GET', KEYS[3]) or '', redis.call('GET', KEYS[4]) or ''}
while true do
  local raw = redis.call('RPOP', KEYS[1])
  if not raw then return result end
  local ok, message = pcall(cjson.decode, raw)
  local expires = ok and type(message) == 'table' and tonumber(message['expires_at_ms']) or nil
  local life = expires and tonumber(message['timeout'])
  -- More left than it was given: the server's clock was set back, and how old the message is cannot be known. It is not begun.
  local stepped = life and message['type'] ~= 'emergency_shutdown' and expires - now_ms > life * 1000 + 1000
  if expires and expires > now_ms and not stepped then
    redis.call('LPUSH', KEYS[2], raw)
    if type(message['site_id']) == 'string' and type(message['command_id']) == 'string' then
      local word = {kind = 'acknowledged', command_id = message['command_id'], acknowledged_at_ms = tostring(now_ms)}
      redis.call('LPUSH', ARGV[1] .. message['site_id'], cjson.encode(word))
    end
    result[2] = raw
    return result
  end
  table.insert(result, raw)
end
