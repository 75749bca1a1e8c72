-- Extend the leases of what is held, and take again what was lost with a restart.
-- KEYS: two for each: the counter and its leases.
-- ARGV: the time in ms, or ''; ms of a lease; then for each: mode, id, amount.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease_ms = tonumber(ARGV[2])
for i = 1, #KEYS / 2 do
  local key, leases = KEYS[2 * i - 1], KEYS[2 * i]
  local mode, id, amount = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  if mode == 'held' or redis.call('HEXISTS', key, 'u') == 1 then
    if redis.call('HSETNX', key, 'i:' .. id, amount) == 1 then
      redis.call('HINCRBY', key, 'h', amount)
    end
    redis.call('ZADD', leases, now + lease_ms, id)
    if mode == 'held' then redis.call('PEXPIRE', key, 2 * lease_ms) end
    redis.call('PEXPIRE', leases, redis.call('PTTL', key))
  end
end
return 1
