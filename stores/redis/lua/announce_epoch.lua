-- The highest epoch of a site's dispatchers: KEYS[1] commands:epoch:{site}; ARGV[1] the epoch. An older one changes nothing.
if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or '0') then redis.call('SET', KEYS[1], ARGV[1]) end
return 1
